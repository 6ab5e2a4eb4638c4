"""Fifty promotions that wait for a person, on SQLite and on PostgreSQL: every one gets its own answer.

Half of them are a deployment's runs, which end while they wait; the others wait in place. Meanwhile all fall silent,
and the automation has the reaper look for runs whose process is gone.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from postgres import postgres_server
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.events import Event
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.states import Running
from prefect_servers import prefect_for_tests
from running import free_ports

from deployments.local import registration
from deployments.local.settings import LIGHT
from flows import promote
from flows.support import reaper
from tasks.release import approval

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

WAITS = 50


@flow
def asking(number: int) -> str:
    """What `promote` does once the gate lets a candidate through."""
    candidate = SimpleNamespace(model="respect.b-fft", version=number)
    contest: Any = SimpleNamespace(candidate=candidate, deployed=candidate)
    verdict: Any = SimpleNamespace(reasons=("it is better",))
    return promote._ask(contest, verdict, None, f"contest-{number}", "").signed


@pytest.fixture(params=["sqlite", "postgresql"])
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncPrefectClient]:
    """Of a server that has the reaper and its automation, of little patience."""
    monkeypatch.setattr(registration, "_deploy", _deploy_reaper)
    monkeypatch.setattr(registration, "SILENCE", timedelta(seconds=10))
    monkeypatch.setattr(reaper, "SILENCE", timedelta(seconds=8))
    if request.param == "postgresql":
        with postgres_server(free_ports()[1]) as postgres, prefect_for_tests(postgres.url("asyncpg", "postgres")):
            yield from _registered()
            assert int(postgres.query("postgres", "SELECT count(*) FROM flow_run")[0]) > WAITS
    else:
        with prefect_for_tests():
            yield from _registered()


def _registered() -> Iterator[SyncPrefectClient]:
    registration.register(devices=1)
    with get_client(sync_client=True) as found:
        yield found


def _deploy_reaper() -> None:
    with get_client(sync_client=True) as client:
        place = {"work_pool_name": LIGHT, "work_queue_name": registration.REAPER}
        client.create_deployment(client.create_flow(reaper.reap), registration.REAPER, **place)


def test_fifty_promotions_of_fifty_get_their_answer(client: SyncPrefectClient) -> None:
    deployed_as = client.create_deployment(client.create_flow(asking), "asking")
    silent = client.create_flow_run(asking, parameters={"number": -1}, state=Running()).id
    with ThreadPoolExecutor(WAITS) as pool:

        def start(work: Callable[..., Any], *arguments: Any) -> Future[Any]:
            return pool.submit(contextvars.copy_context().run, work, *arguments)

        made = [
            client.create_flow_run_from_deployment(deployed_as, parameters={"number": number})
            for number in range(0, WAITS, 2)
        ]
        suspended = [start(_as_a_worker, run) for run in made]
        in_place = [start(asking, number) for number in range(1, WAITS, 2)]
        waiting = _until_all_wait(client)  # also while some of them have not asked yet
        assert {future.result() for future in suspended} == {None}
        _reap_until_crashed(client, silent, list(waiting))
        assert {run.id for run in _runs(client, StateType.PAUSED)} == waiting.keys()
        for run in waiting:
            given = {"signed": f"user {waiting[run].parameters['number']}"}
            assert client.resume_flow_run(run, run_input=given).status is SetStateStatus.ACCEPT
        in_place += [start(_as_a_worker, client.read_flow_run(run.id)) for run in made]
        answered = [future.result() for future in in_place]
    assert sorted(answered) == sorted(f"user {number}" for number in range(WAITS))
    assert {run.id for run in _runs(client, StateType.COMPLETED)} >= waiting.keys()


def _as_a_worker(run: FlowRun) -> str | None:
    """Return what the flow gave, or nothing if it ended suspended."""
    with suppress(Pause):
        return str(run_flow(asking, flow_run=run))
    return None


def _runs(client: SyncPrefectClient, state: StateType) -> list[FlowRun]:
    chosen = FlowRunFilterState(type=FlowRunFilterStateType(any_=[state]))
    return client.read_flow_runs(flow_run_filter=FlowRunFilter(state=chosen), limit=200)


def _until_all_wait(client: SyncPrefectClient) -> dict[UUID, FlowRun]:
    deadline = time.monotonic() + 240
    while len(found := approval.waiting(client)) < WAITS:
        assert time.monotonic() < deadline, len(found)
        time.sleep(0.5)
    return {run.id: run for run in _runs(client, StateType.PAUSED)}


def _reap_until_crashed(client: SyncPrefectClient, silent: UUID, waiting: list[UUID]) -> None:
    """Every run sends one more heartbeat, after it began to wait. Run the reaper as a worker does."""
    _heartbeats(client, silent, waiting)
    deadline = time.monotonic() + 240
    while not (state := client.read_flow_run(silent).state) or not state.is_final():
        assert time.monotonic() < deadline, state
        time.sleep(0.5)
        for run in _runs(client, StateType.SCHEDULED):
            if run.deployment_id == _reaper(client):
                run_flow(reaper.reap, flow_run=run)
    assert state.is_crashed() and state.message == reaper.LOST


def _heartbeats(client: SyncPrefectClient, silent: UUID, waiting: list[UUID]) -> None:
    began = datetime.now(UTC)
    while not (last := reaper.last_heartbeat(client, silent)) or last < began:
        events = [
            Event(event=reaper.HEARTBEAT, resource={"prefect.resource.id": f"prefect.flow-run.{run}"})
            for run in (silent, *waiting)
        ]
        client.request("POST", "/events", json=[event.model_dump(mode="json") for event in events])
        time.sleep(1.0)


def _reaper(client: SyncPrefectClient) -> UUID:
    return client.read_deployment_by_name(f"{registration.REAPER}/{registration.REAPER}").id
