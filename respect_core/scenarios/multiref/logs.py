"""Turn finished games into records of the interaction log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from respect_core.log.pseudonyms import pseudonym
from respect_core.log.records import InteractionLog, LoggedTurn, Outcome, PolicyIdentity
from respect_core.scenarios.multiref.game import Game

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)  # simulated games have no date; a fixed one is reproducible
USERS = 40  # simulated users who share the games


def finished(
    game: Game,
    number: int,
    seconds: Sequence[float],
    round: int,
    variant: str,
    policy: PolicyIdentity,
    seed: int | str,
) -> InteractionLog:
    """Make the log of a finished game. `seconds`: per turn, or empty where nothing was measured."""
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
