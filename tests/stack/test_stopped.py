"""Cancel and Suspend, as the buttons of Prefect's page send them, in every stage of a round on the stack."""

from __future__ import annotations

import time
from typing import Any

import made_up_games
import pytest
from running import ROUND, SMALL, TRAIN, RunningStack

from respect_core.store import leases

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

STAGES = ("export round", "decode round", "subsample b-fft", "train b-fft seed", "select b-fft", "register b-fft")
"""How the names of their tasks begin."""
CANCELLING = {"type": "CANCELLING", "name": "Cancelling"}
SUSPENDED = {"type": "PAUSED", "name": "Suspended", "state_details": {"pause_reschedule": True}}
ONE = SMALL | {"variants": ["b-fft"], "number": 0}


def test_a_round_that_is_cancelled_in_any_stage_ends_and_resumes(running: RunningStack) -> None:
    for stage in STAGES:
        run = running.start(ROUND, parameters=ONE)
        _until(running, run, stage)
        _set(running, run, CANCELLING)
        ended = running.ended(run, 300)
        assert ended["state_type"] == "CANCELLED", (stage, ended["state"])
        _nothing_is_held(running, run, stage)
    ended = running.ended(running.start(ROUND, parameters=ONE))
    assert ended["state_type"] == "COMPLETED", ended["state"]["message"]
    assert running.versions()["b-fft"] == 1


def test_a_round_that_is_suspended_in_any_stage_waits_and_resumes(running: RunningStack) -> None:
    """Prefect looks every few seconds, so that a stage may be over, and later ones done, before its run ends."""
    made_up_games.play(running.store(), 1)
    before = running.versions()["b-fft"]
    alone = [(stage,) for stage in STAGES[3:]]
    for steps, stages in enumerate([STAGES[:3], *alone], start=2):  # other steps: no training that was done counts
        run = running.start(ROUND, parameters=ONE | {"number": 1, "max_steps": steps})
        for stage in stages:
            _until(running, run, stage)
            _set(running, run, SUSPENDED)
            _nothing_is_held(running, run, stage)
            assert running.api.get(f"/flow_runs/{run}").json()["state_name"] == "Suspended", stage
            assert running.api.post(f"/flow_runs/{run}/resume", json={}).json()["status"] == "ACCEPT"
        ended = running.ended(run)
        assert ended["state_type"] == "COMPLETED", ended["state"]["message"]
        assert running.versions()["b-fft"] == before + steps - 1


def _until(running: RunningStack, run: str, stage: str, seconds: float = 600) -> None:
    """Return when a task of a stage is under way, or just over."""
    began = running.api.get(f"/flow_runs/{run}").json()["created"]
    wanted = {"task_runs": {"start_time": {"after_": began}}, "limit": 200}
    deadline = time.monotonic() + seconds
    while True:
        tasks = running.api.post("/task_runs/filter", json=wanted).json()
        state = running.api.get(f"/flow_runs/{run}").json()["state_type"]
        if any(task["name"].startswith(stage) for task in tasks):
            return
        assert state in ("SCHEDULED", "PENDING", "RUNNING"), (stage, state)
        assert time.monotonic() < deadline, (stage, state)
        time.sleep(0.2)


def _set(running: RunningStack, run: str, state: dict[str, Any]) -> None:
    answer = running.api.post(f"/flow_runs/{run}/set_state", json={"state": state}).raise_for_status().json()
    assert answer["status"] == "ACCEPT", answer


def _nothing_is_held(running: RunningStack, run: str, stage: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while wrong := _held(running, run):
        assert time.monotonic() < deadline, (stage, wrong)
        time.sleep(1)


def _held(running: RunningStack, run: str) -> list[str]:
    at_work = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}}
    wrong = [
        f"{each['name']} is {each['state_name']}" for each in running.api.post("/flow_runs/filter", json=at_work).json()
    ]
    limits = running.api.post("/v2/concurrency_limits/filter", json={}).json()
    wrong += [f"a slot of {limit['name']} is taken" for limit in limits if limit["active_slots"]]
    children = [run, *(each["id"] for each in running.runs(TRAIN) + running.runs("decode/decode"))]
    wrong += [words for each in children for words in running.processes(PREFECT__FLOW_RUN_ID=each).values()]
    store = running.store()
    return wrong + [key for key in store.keys("leases/") if store.read(key) != leases._FREE]
