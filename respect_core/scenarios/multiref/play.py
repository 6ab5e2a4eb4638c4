"""Let a simulated speaker play a game with a policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from respect_core.acting.listener import Act
from respect_core.interaction import Interaction
from respect_core.log.records import InteractionLog
from respect_core.measuring.world import Deployment
from respect_core.scenarios.multiref.actions import Action
from respect_core.scenarios.multiref.contexts import GameContext
from respect_core.scenarios.multiref.game import Game
from respect_core.scenarios.multiref.logs import finished
from respect_core.scenarios.multiref.speakers import Saying


class Speaker(Protocol):
    """A speaker, who sees the selected letters and the listener's last action (None at the start)."""

    def speak(self, state: str, last: Action | None) -> Saying: ...


Factory = Callable[[GameContext, int | str], Speaker]


class SimulatedGame:
    """A game with a simulated speaker (measuring.world.SimulatedInteraction)."""

    def __init__(self, context: GameContext, speaker: Speaker, deployment: Deployment) -> None:
        self._game, self._speaker, self._deployment = Game(context), speaker, deployment
        self._seconds: list[float] = []
        self._say()

    @property
    def over(self) -> bool:
        return self._game.over

    def seen(self) -> Interaction:
        return self._game.seen_by_listener()

    def act(self, act: Act, seconds: float) -> None:
        self._game.act(act.action, act.probability)
        self._seconds.append(seconds)
        if not self.over:
            self._say()

    def log(self, number: int) -> InteractionLog:
        by = self._deployment
        return finished(self._game, number, self._seconds, by.round, by.variant, by.policy, by.seed)

    def _say(self) -> None:
        self._game.say(self._speaker.speak(self._game.state, self._game.last_action).utterance)


def simulated_games(
    contexts: Sequence[GameContext], speaker_factory: Factory, deployment: Deployment
) -> list[SimulatedGame]:
    """Make a game of each context. `speaker_factory`: makes a context's speaker from it and the deployment's seed."""
    return [SimulatedGame(context, speaker_factory(context, deployment.seed), deployment) for context in contexts]
