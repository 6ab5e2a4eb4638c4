"""Enforce the rules of MULTIREF (appendix A.1) as a state machine: utterance, action, utterance, action, ..."""

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
    """A game in play. `state`: the selected letters. The last turn's action is None while the listener thinks."""

    context: GameContext
    state: str = ""
    turns: list[Turn] = field(default_factory=list)

    @property
    def awaits_action(self) -> bool:
        """Whether it is the listener's move."""
        return bool(self.turns) and self.turns[-1].action is None

    @property
    def success(self) -> bool:
        """Whether exactly the targets are selected, after at least one action."""
        return bool(self.turns) and not self.awaits_action and self.state == self.context.target_letters

    @property
    def over(self) -> bool:
        """Whether the game is won, or out of turns."""
        return self.success or (not self.awaits_action and 2 * len(self.turns) >= MAX_TURNS)

    @property
    def last_action(self) -> actions.Action | None:
        """The listener's last action; None before its first."""
        past = [turn.action for turn in self.turns if turn.action is not None]
        return actions.parse(past[-1]) if past else None

    def say(self, utterance: str) -> None:
        """Make the speaker's move."""
        if self.over or self.awaits_action:
            raise RuleError("the speaker spoke out of turn or after the end")
        if not utterance.strip():
            raise RuleError("an utterance cannot be blank")
        self.turns.append(Turn(self.state, utterance))

    def act(self, action: str, probability: float | None = None) -> None:
        """Make the listener's move. Raises actions.ActionError on an action that is illegal in the state."""
        if not self.awaits_action:
            raise RuleError("the listener acted out of turn or after the end")
        parsed = actions.parse(action)
        actions.check_legal(parsed, self.state, len(self.context.images))
        turn = self.turns[-1]
        self.turns[-1] = Turn(turn.state, turn.utterance, str(parsed), probability)
        self.state = actions.apply(parsed, self.state)

    def seen_by_listener(self) -> Interaction:
        """Return all that a listener may know."""
        return Interaction(self.context.id, self.context.images, tuple(self.turns))
