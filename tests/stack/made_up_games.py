"""A few made-up games for the stack: enough for every variant to learn a step or two from."""

from __future__ import annotations

from respect_core.log.log import append_logs
from respect_core.log.records import InteractionLog
from respect_core.scenarios.multiref import world
from respect_core.scenarios.multiref.importers.games import UNKNOWN_POLICY
from respect_core.store.base import Store
from respect_core.training_data import curated
from respect_core.variants import SEED


def people(store: Store, games: int = 3) -> None:
    """Small D0 and validation sets, so that no flow makes the profile's."""
    for name in (curated.D0, curated.VALIDATION):
        curated.write(store, name, world.human_games(store, games, name, seed=name, round=0))


def play(store: Store, round: int, games: int = 20) -> None:
    """Games of a policy whose every third action is wrong: taken from people's, with the words of another turn."""
    logs = world.human_games(store, games, f"stack-{round}", seed=f"stack-{round}", round=round)
    append_logs(store, [_of_a_policy(log, round) for log in logs])


def _of_a_policy(log: InteractionLog, round: int) -> InteractionLog:
    words = [turn.utterance for turn in log.turns]
    turns = [
        turn.model_copy(
            update={"utterance": f"no, {words[number - 1]}" if number % 3 == 2 else turn.utterance, "probability": 0.5}
        )
        for number, turn in enumerate(log.turns)
    ]
    return log.model_copy(
        update={"variant": SEED, "policy": UNKNOWN_POLICY, "round": round, "turns": turns, "outcome": log.outcome}
    )
