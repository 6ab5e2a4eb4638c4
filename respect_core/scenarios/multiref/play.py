"""Play games between a listener and simulated speakers, many at once, and return interaction logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from respect_core.acting.listener import Listener
from respect_core.log.records import InteractionLog, PolicyIdentity
from respect_core.scenarios.multiref.actions import Action
from respect_core.scenarios.multiref.contexts import GameContext
from respect_core.scenarios.multiref.game import Game
from respect_core.scenarios.multiref.logs import finished
from respect_core.scenarios.multiref.speakers import Saying


class Progress(Protocol):
    """Callback after every step, with the number of finished games and of all games."""

    def __call__(self, over: int, total: int, /) -> None: ...


class Speaker(Protocol):
    """A speaker, who sees the selected letters and the listener's last action (None at the start)."""

    def speak(self, state: str, last: Action | None) -> Saying: ...


Factory = Callable[[GameContext, int | str], Speaker]


def play(
    listener: Listener,
    contexts: Sequence[GameContext],
    speaker_factory: Factory,
    *,
    round: int,
    variant: str,
    policy: PolicyIdentity,
    seed: int | str,
    batch: int = 64,
    progress: Progress | None = None,
) -> list[InteractionLog]:
    """Play each context to its end.

    Up to `batch` games are live at a time, and each step is one call of `listener.act` for all of them. A finished game
    makes room for the next. Logs are returned in the order of `contexts`, whatever the order of play.

    Args:
        listener: it sees the context, the utterances and its own actions, never a target.
        speaker_factory: makes the speaker of a context, e.g. `speakers.speaker_factory(values)`.
        policy: the listener's identity, for the log.
        seed: for the speakers; the listener has its own source of randomness.
    """
    waiting = list(enumerate(contexts))[::-1]
    live: dict[int, tuple[Game, Speaker, list[float]]] = {}
    logs: dict[int, InteractionLog] = {}
    while waiting or live:
        while waiting and len(live) < batch:
            number, context = waiting.pop()
            live[number] = (Game(context), speaker_factory(context, seed), [])
        for game, speaker, _ in live.values():
            game.say(speaker.speak(game.state, game.last_action).utterance)
        start = time.perf_counter()
        acts = listener.act([game.seen_by_listener() for game, _, _ in live.values()])
        seconds = (time.perf_counter() - start) / len(live)
        if len(acts) != len(live):
            raise ValueError(f"the listener returned {len(acts)} acts for {len(live)} games")
        for number, act in zip(list(live), acts, strict=True):
            game, _, times = live[number]
            game.act(act.action, act.probability)
            times.append(seconds)
            if game.over:
                logs[number] = finished(game, number, times, round, variant, policy, seed)
                del live[number]
        if progress is not None:
            progress(len(logs), len(contexts))
    return [logs[number] for number in sorted(logs)]
