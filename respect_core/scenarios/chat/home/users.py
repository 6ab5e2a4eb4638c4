"""Simulate users of the home: they want several things, and react to what the assistant does as people do.

A user asks for one thing at a time. After a right call they approve, or say nothing of it; after a wrong one they
object, ask again in other words, repeat themselves, or in the end give up. What they want, nobody else knows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from respect_core.scenarios.chat.home import phrases
from respect_core.scenarios.chat.home.phrases import Split, Target

APPROVE = ("Thanks!", "Great, thank you.", "Perfect.", "Yes, that's it.", "Good.", "Exactly, thanks.", "Nice.")
APPROVE_NEXT = ("{0} Now {1}", "{0} And {1}", "{0} {1}", "{0} Next: {1}", "{0} Then {1}")
OBJECT = (
    "No, that's wrong. {}",
    "No, I meant: {}",
    "That's not what I asked for. {}",
    "Wrong. {}",
    "No! {}",
    "Not that. {}",
    "You got it wrong, {}",
)
REPEAT = ("I said {}", "Again: {}", "No. Once more: {}")
GIVE_UP = ("Never mind. {}", "Forget it. {}", "That doesn't work. {}")


@dataclass(frozen=True)
class Manners:
    """A user's habits, as probabilities."""

    silent: float = 0.3  # asks for the next thing without approving
    thank: float = 0.6  # says something after the last right call
    object: float = 0.6  # says that a call was wrong, and asks in other words
    repeat: float = 0.15  # repeats the same words; otherwise just asks in other words
    tries: int = 3  # for one target


@dataclass
class SimulatedUser:
    """A user in one conversation. `speak` returns None once nothing is left to say."""

    targets: Sequence[Target]
    split: Split
    rng: random.Random
    manners: Manners = field(default_factory=Manners)
    reached: int = 0  # targets
    current: int = 0  # the target that is asked for
    _tries: int = 0
    _asked: str = ""

    @property
    def over(self) -> bool:
        return self.current == len(self.targets)

    def speak(self, reply: str | None) -> str | None:
        """React to the last reply, None at the start, with the next utterance."""
        if reply is None:
            return self._ask()
        if reply == self.targets[self.current].call:
            self.reached += 1
            self._next()
            return self._after_right()
        if self._tries == self.manners.tries:
            self._next()
            form = self.rng.choice(GIVE_UP)
            return form.format("").strip() if self.over else form.format(self._ask())
        return self._after_wrong()

    def _next(self) -> None:
        self.current, self._tries = self.current + 1, 0

    def _after_right(self) -> str | None:
        rng = self.rng
        if self.over:
            return rng.choice(APPROVE) if rng.random() < self.manners.thank else None
        if rng.random() < self.manners.silent:
            return self._ask()
        return rng.choice(APPROVE_NEXT).format(rng.choice(APPROVE), self._ask())

    def _after_wrong(self) -> str:
        rng, chance = self.rng, self.rng.random()
        if chance < self.manners.repeat:
            self._tries += 1
            return rng.choice(REPEAT).format(self._asked)
        again = self._ask()
        return rng.choice(OBJECT).format(again) if chance < self.manners.repeat + self.manners.object else again

    def _ask(self) -> str:
        self._tries += 1
        self._asked = phrases.utterance(self.targets[self.current], self.split, self.rng, other_than=self._asked)
        return self._asked
