"""Games between a listener and simulated speakers, many at once, as interaction logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from respect_core.actions import Action
from respect_core.interaction import InteractionLog, LoggedTurn, Outcome, PolicyIdentity, pseudonym
from respect_core.listener import Listener
from respect_core.multiref.contexts import GameContext
from respect_core.multiref.game import Game
from respect_core.multiref.speakers import Saying, SpeakerFactory

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)  # simulated games have no date of their own; a fixed one repeats
USERS = 40  # simulated users that games are spread over


class Progress(Protocol):
    """Called after every step: how many games are over, and how many there are."""

    def __call__(self, over: int, total: int) -> None: ...


class Speaker(Protocol):
    """Speaks given the selected letters and the listener's last action (None at the start)."""

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

    Up to `batch` games are live at a time, and each step is one call of `listener.act` for all of them. A game that
    ends makes room for the next, so logs come back in the order of `contexts`, whatever the order of play.

    Args:
        listener: what plays; it sees the context, the utterances and its own actions, never a target.
        speaker_factory: makes the speaker of a context, e.g. `speakers.speaker_factory(values)`.
        policy: who the listener is, for the log.
        seed: of the speakers; the listener draws from its own source.
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
                logs[number] = _log(game, number, times, round, variant, policy, seed)
                del live[number]
        if progress is not None:
            progress(over=len(logs), total=len(contexts))
    return [logs[number] for number in sorted(logs)]


def human_games(
    contexts: Sequence[GameContext], speaker_factory: SpeakerFactory, *, seed: int | str, round: int = 0
) -> list[InteractionLog]:
    """Games in which the listener is a person too: one who takes the action the speaker intends (variant hh).

    They are for D0 and for the human-human validation set, as the study's games between people were.
    """
    logs = []
    policy = PolicyIdentity(name="human", version="unknown")
    for number, context in enumerate(contexts):
        game, speaker = Game(context), speaker_factory(context, seed)
        while not game.over:
            saying = speaker.speak(game.state, game.last_action)
            game.say(saying.utterance)
            game.act(str(saying.intended))
        logs.append(_log(game, number, [], round, "hh", policy, seed))
    return logs


def _log(
    game: Game,
    number: int,
    seconds: Sequence[float],
    round: int,
    variant: str,
    policy: PolicyIdentity,
    seed: int | str,
) -> InteractionLog:
    context = game.context
    return InteractionLog(
        interaction_id=f"{variant}-r{round}-s{seed}-{context.id}",
        round=round,
        variant=variant,
        policy=policy,
        user=pseudonym(f"simulated-{number % USERS}"),
        started_at=(EPOCH + timedelta(days=round, minutes=number)).isoformat(),
        context=list(context.images),
        turns=[
            LoggedTurn(
                utterance=turn.utterance,
                action=turn.action or "",
                probability=turn.probability,
                seconds=seconds[i] if seconds else None,
            )
            for i, turn in enumerate(game.turns)
        ],
        outcome=Outcome(targets=list(context.targets), success=game.success),
    )
