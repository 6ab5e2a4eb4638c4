"""The rules of MULTIREF (appendix A.1) as a state machine: utterance, action, utterance, action, ..."""

from __future__ import annotations

from dataclasses import dataclass, field

from respect_core.errors import ExpectedError
from respect_core.interaction import Interaction, Turn
from respect_core.scenarios.multiref import actions
from respect_core.scenarios.multiref.contexts import GameContext

MAX_TURNS = 20  # speaker and listener turns together


class RuleError(ExpectedError):
    """A move out of turn or after the end."""


@dataclass
class Game:
    """One game in play. `state` are the selected letters; the last turn's action is None while the listener thinks."""

    context: GameContext
    state: str = ""
    turns: list[Turn] = field(default_factory=list)

    @property
    def awaits_action(self) -> bool:
        """Whether the listener is to move."""
        return bool(self.turns) and self.turns[-1].action is None

    @property
    def success(self) -> bool:
        """Exactly the targets are selected, after at least one action."""
        return bool(self.turns) and not self.awaits_action and self.state == self.context.target_letters

    @property
    def over(self) -> bool:
        """Won, or out of turns."""
        return self.success or (not self.awaits_action and 2 * len(self.turns) >= MAX_TURNS)

    @property
    def last_action(self) -> actions.Action | None:
        """What the listener did last; None before its first action."""
        done = [turn.action for turn in self.turns if turn.action is not None]
        return actions.parse(done[-1]) if done else None

    def say(self, utterance: str) -> None:
        """The speaker's turn."""
        if self.over or self.awaits_action:
            raise RuleError("the speaker spoke out of turn or after the end")
        if not utterance.strip():
            raise RuleError("an utterance cannot be blank")
        self.turns.append(Turn(self.state, utterance))

    def act(self, action: str, probability: float | None = None) -> None:
        """The listener's turn. Raises actions.ActionError on an action that is illegal in the state."""
        if not self.awaits_action:
            raise RuleError("the listener acted out of turn or after the end")
        parsed = actions.parse(action)
        actions.check_legal(parsed, self.state, len(self.context.images))
        turn = self.turns[-1]
        self.turns[-1] = Turn(turn.state, turn.utterance, str(parsed), probability)
        self.state = actions.apply(parsed, self.state)

    def seen_by_listener(self) -> Interaction:
        """All that a listener may know."""
        return Interaction(self.context.id, self.context.images, tuple(self.turns))
