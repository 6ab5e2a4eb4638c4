"""How simulated games are divided among workers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from respect_core.log.records import PolicyIdentity
from respect_core.measuring.world import Deployment, world
from tasks.compute import process
from tasks.games.play import shares


@given(st.integers(1, 16), st.integers(1, 1000))
def test_each_game_has_one_worker(workers: int, games: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "parallel_workers", lambda: workers)
        divided = shares(games)
    assert [skip for _, skip in divided] == [sum(count for count, _ in divided[:n]) for n in range(len(divided))]
    assert sum(count for count, _ in divided) == games and len(divided) <= workers
    assert len(divided) == 1 or min(count for count, _ in divided) >= 30


@pytest.mark.parametrize("scenario", ["multiref", "home"])
def test_a_share_has_the_games_that_one_worker_would_play(scenario: str) -> None:
    deployment = Deployment(0, "seed", PolicyIdentity(name="respect.seed", version="1"), 0)
    people = world(scenario)
    whole = [each.seen() for each in people.interactions(10, 7, deployment)]
    halves = [
        each.seen() for skip in (0, 6) for each in people.interactions((6, 4)[skip > 0], 7, deployment, skip=skip)
    ]
    assert halves == whole
