"""Play: one call a step for all live games, logs that say what happened, nothing of a target to the listener."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from respect_core.acting.listener import Act
from respect_core.interaction import Interaction
from respect_core.log.records import InteractionLog, PolicyIdentity
from respect_core.measuring.world import Deployment, play
from respect_core.scenarios.multiref import actions, contexts, speakers, tangrams
from respect_core.scenarios.multiref.play import simulated_games

POLICY = PolicyIdentity(name="random", version="0")


class RandomListener:
    """Clicks anywhere legal, its choice a function of what it sees."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.seen: list[Interaction] = []

    def act(self, interactions: Sequence[Interaction]) -> list[Act]:
        self.calls.append(len(interactions))
        self.seen += interactions
        acts = []
        for one in interactions:
            legal = actions.legal_actions(one.turns[-1].state, len(one.context))
            rng = random.Random(f"{one.interaction_id}-{len(one.turns)}")
            acts.append(Act(rng.choice(legal), 1 / len(legal)))
        return acts


def run(batch: int) -> tuple[RandomListener, list[InteractionLog], list[tuple[int, int]]]:
    pool = tangrams.procedural_pool(0)
    listener, told = RandomListener(), []
    factory = speakers.speaker_factory(speakers.values_of(pool.tangrams))
    games = simulated_games(contexts.sample(pool.main, 12, 0), factory, Deployment(2, "b-fft", POLICY, 1))
    logs = play(listener, games, batch=batch, progress=lambda over, total: told.append((over, total)))
    return listener, logs, told


def test_games_are_played_together_and_logged_in_order() -> None:
    listener, logs, told = run(batch=5)
    assert max(listener.calls) == 5 and sum(listener.calls) == sum(len(log.turns) for log in logs)
    assert told[-1] == (12, 12)
    assert [log.interaction_id for log in logs] == sorted(log.interaction_id for log in logs)
    for log in logs:
        assert log.outcome is not None
        assert (log.round, log.variant, log.policy) == (2, "b-fft", POLICY)
        letters = "".join(
            actions.LETTERS[log.context.index(image)] for image in log.context if image in log.outcome.targets
        )
        assert log.outcome.success == (log.states()[-1] == letters)
        assert log.outcome.success or len(log.turns) == 10
        assert all(turn.probability == pytest.approx(1 / 1023) for turn in log.turns)
        assert all(turn.seconds is not None for turn in log.turns)


def test_batch_size_changes_nothing_but_time() -> None:
    def timeless(logs: list[InteractionLog]) -> list[object]:
        return [[(t.utterance, t.action, t.probability) for t in log.turns] for log in logs]

    assert timeless(run(batch=1)[1]) == timeless(run(batch=64)[1])


def test_the_listener_sees_context_utterances_and_its_own_actions() -> None:
    listener, _, _ = run(batch=64)
    for one in listener.seen:
        assert one.turns[-1].action is None
        assert set(vars(one)) == {"interaction_id", "context", "turns"}
        assert all(turn.action is not None for turn in one.turns[:-1])


def test_a_listener_that_skips_a_game_is_told() -> None:
    class Lazy:
        def act(self, interactions: Sequence[Interaction]) -> list[Act]:
            return []

    pool = tangrams.procedural_pool(0)
    factory = speakers.speaker_factory(speakers.values_of(pool.tangrams))
    games = simulated_games(contexts.sample(pool.main, 2, 0), factory, Deployment(0, "x", POLICY, 0))
    with pytest.raises(ValueError, match="0 acts for 2 interactions"):
        play(Lazy(), games)
