"""One local stack for the tests of this folder, and a round that it learned from."""

from __future__ import annotations

import time
from collections.abc import Iterator

import made_up_games
import pytest
from running import ROUND, SMALL, RunningStack


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """Started once, with small game sets and the games of round 0 in its store."""
    stack = RunningStack(tmp_path_factory.mktemp("stack"))
    stack.up()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (stack.stack.environment() | stack.stack.login()).items():
                patch.setenv(name, value)
            made_up_games.people(stack.store())
            made_up_games.play(stack.store(), 0)
            yield stack
    finally:
        stack.command("down")


@pytest.fixture(scope="session")
def learned(running: RunningStack) -> str:
    """Round 0, learned from when its schedule fired, with one training killed in its middle; the id of its run."""
    before = {run["id"] for run in running.runs(ROUND)}
    schedule = running.schedule(ROUND, 15, parameters=SMALL)
    deadline = time.monotonic() + 600
    while not (fired := [run for run in running.runs(ROUND) if run["id"] not in before and run["start_time"]]):
        assert time.monotonic() < deadline, "the schedule did not fire"
        time.sleep(2)
    running.api.delete(f"/deployments/{running.deployment(ROUND)}/schedules/{schedule}")
    assert fired[0]["auto_scheduled"]
    running.kill_a_training()
    run = running.ended(fired[0]["id"])
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    return str(run["id"])
