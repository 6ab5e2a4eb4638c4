"""Simulate speakers: they see the targets and, like people, reveal what they know only in words.

A speaker describes one target at a time (occasionally two), looks at what was selected, then approves, moves on
without comment, corrects, asks to deselect or starts over. It knows the action that each utterance intends, which
a cooperative human listener would take; that is used for human-human games, and nothing else may read it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from respect_core.log.records import InteractionLog, PolicyIdentity
from respect_core.scenarios.multiref import attributes, dialects
from respect_core.scenarios.multiref.actions import LETTERS, Action
from respect_core.scenarios.multiref.attributes import Values
from respect_core.scenarios.multiref.contexts import GameContext
from respect_core.scenarios.multiref.dialects import Dialect
from respect_core.scenarios.multiref.game import Game
from respect_core.scenarios.multiref.logs import finished
from respect_core.scenarios.multiref.tangrams import Tangram

FIGURATIVE_SHARE = 1.0  # in the profile `tiny`


@dataclass(frozen=True)
class Manners:
    """A speaker's habits, as probabilities."""

    silent: float = 0.2  # moves on from a right action without approving
    two: float = 0.08  # describes two targets at once
    ignore: float = 0.03  # leaves a mistake for later
    insist: float = 0.7  # says so when a target other than the one described was selected
    undo: float = 0.25  # after a mistake: only asks to deselect
    again: float = 0.1  # after a mistake: asks to try again, without a new description
    reset: float = 0.35  # starts over when two or more are wrong
    most_words: int = 4  # in a description


@dataclass(frozen=True)
class Saying:
    """An utterance and its intended action. Only the utterance leaves the speaker."""

    utterance: str
    intended: Action


@dataclass
class SimulatedSpeaker:
    """A speaker in one game. `values`: the attribute values of each image, by id."""

    context: GameContext
    values: Mapping[str, Values]
    dialect: Dialect
    rng: random.Random
    manners: Manners = field(default_factory=Manners)
    _described: str = ""  # letters in the last description

    def speak(self, state: str, last: Action | None) -> Saying:
        """React to the selected letters and to the action that led to them (None at the start)."""
        targets = set(self.context.target_letters)
        missing = "".join(sorted(targets - set(state)))
        wrong = "".join(sorted(set(state) - targets))
        if last is None:
            return self._next(missing, dialects.FIRST)
        if wrong and not (missing and self.rng.random() < self.manners.ignore):
            return self._correct(state, wrong, missing, last)
        still_missing = [letter for letter in self._described if letter in missing]
        if wrong or not missing:  # a mistake left for later, or all targets and more selected
            return self._next(missing, dialects.NEXT) if missing else self._deselect(wrong)
        if set(last.deselect) & targets or (still_missing and not last.select and not last.deselect):
            return self._redescribe(missing)
        if still_missing and len(self._described) == 2 and last.select:
            return self._still(still_missing[0])
        if still_missing and last.select and self.rng.random() < self.manners.insist:
            self._described = still_missing[0]
            return Saying(
                self.rng.choice(dialects.INSIST).format(self._describe(self._described)),
                Action(select=self._described),
            )
        if self.rng.random() < self.manners.silent:
            return self._next(missing, dialects.NEXT)
        return self._next(missing, tuple(self._with_approval(form) for form in dialects.APPROVE_NEXT))

    # --- reactions ------------------------------------------------------------------------------------------------

    def _next(self, missing: str, forms: Sequence[str]) -> Saying:
        count = 2 if len(missing) > 1 and self.rng.random() < self.manners.two else 1
        letters = self.rng.sample(missing, count)
        self._described = "".join(sorted(letters))
        phrases = [self._describe(letter) for letter in letters]
        phrase = phrases[0] if count == 1 else self.rng.choice(dialects.BOTH).format(*phrases)
        return Saying(self.rng.choice(forms).format(phrase), Action(select=self._described))

    def _correct(self, state: str, wrong: str, missing: str, last: Action) -> Saying:
        manners, chance = self.manners, self.rng.random()
        if len(wrong) > 1 and self.rng.random() < manners.reset:
            self._described = ""
            return Saying(self._with_rejection(dialects.RESET), Action(deselect=state))
        if wrong != last.select:  # more is wrong than the last selection: say what
            return self._deselect(self.rng.choice(wrong))
        if not missing or chance < manners.undo:
            return Saying(self._with_rejection(dialects.UNDO), Action(deselect=wrong))
        letter = self._described if len(self._described) == 1 and self._described in missing else ""
        if letter and chance < manners.undo + manners.again:
            return Saying(self._with_rejection(dialects.TRY_AGAIN), Action(wrong, letter))
        letter = letter or self.rng.choice(missing)
        self._described = letter
        form = self.rng.choice(dialects.CORRECT)
        return Saying(form.format(self.rng.choice(dialects.REJECT), self._describe(letter)), Action(wrong, letter))

    def _deselect(self, wrong: str) -> Saying:
        letter = wrong[0] if len(wrong) == 1 else self.rng.choice(wrong)
        return Saying(self.rng.choice(dialects.DESELECT).format(self._describe(letter)), Action(deselect=letter))

    def _redescribe(self, missing: str) -> Saying:
        letter = self.rng.choice([x for x in self._described if x in missing] or missing)
        self._described = letter
        form = self.rng.choice(dialects.CORRECT[:4])
        return Saying(form.format(self.rng.choice(dialects.REJECT), self._describe(letter)), Action(select=letter))

    def _still(self, letter: str) -> Saying:
        self._described = letter
        form = self.rng.choice(dialects.STILL)
        phrase = self._describe(letter)
        filled = form.format(phrase) if form.count("{}") == 1 else form.format(self._approval(), phrase)
        return Saying(filled, Action(select=letter))

    # --- words ----------------------------------------------------------------------------------------------------

    def _approval(self) -> str:
        return self.rng.choice(dialects.APPROVE)

    def _with_approval(self, form: str) -> str:
        return form.replace("{}", self._approval(), 1)

    def _with_rejection(self, forms: Sequence[str]) -> str:
        return self.rng.choice(forms).format(self.rng.choice(dialects.REJECT))

    def _describe(self, letter: str) -> str:
        values = self._distinguishing_values(letter)
        return dialects.noun_phrase([self.dialect.word(value, self.rng) for value in values], self.rng)

    def _distinguishing_values(self, letter: str) -> list[dialects.Value]:
        """Choose attribute values that together fit no other image of the context, if `most_words` are enough."""
        by_letter = dict(zip(LETTERS, (self.values[image] for image in self.context.images), strict=False))
        own = list(by_letter.pop(letter).items())
        self.rng.shuffle(own)
        others = list(by_letter.values())
        chosen: list[dialects.Value] = []
        while own and len(chosen) < self.manners.most_words:
            gains = [sum(other.get(name, value) != value for other in others) for name, value in own]
            if not others and len(chosen) > 1 and self.rng.random() < 0.5:
                break
            name, value = own.pop(max(range(len(own)), key=gains.__getitem__))
            chosen.append((name, value))
            others = [other for other in others if other.get(name, value) == value]
        return chosen


@dataclass(frozen=True)
class SpeakerFactory:
    """Factory of a game's speaker. The same context and seed give the same speaker."""

    values: Mapping[str, Values]
    dialect: Dialect
    manners: Manners

    def __call__(self, context: GameContext, seed: int | str) -> SimulatedSpeaker:
        rng = random.Random(f"speaker-{seed}-{context.id}")
        return SimulatedSpeaker(context, self.values, self.dialect, rng, self.manners)


MakeSpeaker = Callable[[GameContext, int | str], SimulatedSpeaker]
"""A function from context and seed to speaker, such as a `SpeakerFactory`."""


@dataclass(frozen=True)
class _Values(Mapping[str, Values]):
    """Each tangram's attribute values, by id; computed when asked for, as those of a whole pool take seconds."""

    tangrams: Mapping[str, Tangram]

    def __getitem__(self, image: str) -> Values:
        return attributes.values(self.tangrams[image])

    def __iter__(self) -> Iterator[str]:
        return iter(self.tangrams)

    def __len__(self) -> int:
        return len(self.tangrams)


def values_of(tangrams: Mapping[str, Tangram]) -> Mapping[str, Values]:
    """Return each tangram's attribute values, by id."""
    return _Values(tangrams)


def speaker_factory(
    values: Mapping[str, Values], *, share: float = FIGURATIVE_SHARE, manners: Manners | None = None
) -> SpeakerFactory:
    """Make a factory of speakers of the users' dialect. `share`: how often they speak figuratively."""
    return SpeakerFactory(values, dialects.users(share), manners or Manners())


def human_games(
    contexts: Sequence[GameContext], speaker_factory: MakeSpeaker, *, seed: int | str, round: int = 0
) -> list[InteractionLog]:
    """Play games whose listener is also a person, who takes the action the speaker intends (variant hh).

    They stand for the study's games between people: D0 and the human-human validation set.
    """
    logs = []
    policy = PolicyIdentity(name="human", version="unknown")
    for number, context in enumerate(contexts):
        game, speaker = Game(context), speaker_factory(context, seed)
        while not game.over:
            saying = speaker.speak(game.state, game.last_action)
            game.say(saying.utterance)
            game.act(str(saying.intended))
        logs.append(finished(game, number, [], round, "hh", policy, seed))
    return logs
