"""What the Prefect server is told, on a real one. tests/stack deploys what is here only counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.events import Event
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.flow_runs import resume_flow_run, suspend_flow_run
from prefect.states import Cancelling, Pending, Running, Suspended
from prefect.variables import Variable
from prefect_servers import prefect_for_tests

from deployments.local import registration
from deployments.local.settings import GPU, LIGHT, LIGHT_RUNS
from flows.support import reaper
from tasks.release.approval import Approval

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with prefect_for_tests():
        yield


@pytest.fixture
def client(server: None) -> Iterator[SyncPrefectClient]:
    """Of a server on which nothing is registered."""
    with get_client(sync_client=True) as found:
        yield found
        Variable.unset(registration.REGISTERED)
        for automation in found.read_automations():
            found.delete_automation(automation.id)


@pytest.fixture
def deployed(client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows with every deployment of prefect.yaml, of which only the reaper is deployed here."""
    made: list[None] = []

    def deploy() -> None:
        made.append(None)
        place = {"work_pool_name": LIGHT, "work_queue_name": registration.REAPER}
        client.create_deployment(client.create_flow(reaper.reap), registration.REAPER, **place)

    monkeypatch.setattr(registration, "_deploy", deploy)
    return made


def test_what_is_registered_is_left_alone_until_something_of_it_changes(
    client: SyncPrefectClient, deployed: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ValueError("prefect.yaml was not deployed")

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="was not deployed"):
        patch.setattr(registration, "_deploy", fail)
        registration.register(devices=2)
    registration.register(devices=2)
    assert len(deployed) == 1, "what was not deployed is deployed the next time"
    assert _limits(client) == {LIGHT: LIGHT_RUNS, GPU: 2}

    client.update_work_pool(LIGHT, WorkPoolUpdate(concurrency_limit=3))  # as somebody does in the UI
    registration.register(devices=2)
    assert len(deployed) == 1 and _limits(client) == {LIGHT: 3, GPU: 2}

    registration.register(devices=4)  # there are more devices
    assert len(deployed) == 2 and _limits(client) == {LIGHT: LIGHT_RUNS, GPU: 4}
    for name in (registration.SILENT, registration.UNBEGUN):
        assert len(client.read_automations_by_name(name)) == 1


def test_an_automation_of_before_becomes_what_it_is_now(client: SyncPrefectClient, deployed: list[None]) -> None:
    registration.register(devices=2)
    (now,) = client.read_automations_by_name(registration.SILENT)
    before = ChangeFlowRunState.model_validate({"state": StateType.CRASHED, "message": reaper.LOST})
    client.update_automation(now.id, AutomationCore(name=registration.SILENT, trigger=now.trigger, actions=[before]))
    client.pause_automation(now.id)  # as somebody does in the UI
    registration.register(devices=2)
    assert client.read_automation(now.id) == now.model_copy(update={"actions": [before], "enabled": False})
    registration.register(devices=4)
    assert client.read_automations_by_name(registration.SILENT) == [now.model_copy(update={"enabled": False})]


def test_the_reaper_has_a_slot_where_silent_runs_hold_all_others(
    client: SyncPrefectClient, deployed: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "LIGHT_RUNS", 2)
    registration.register(devices=1)
    busy = client.create_deployment(client.create_flow(asking), "busy", work_pool_name=LIGHT)
    silent, _ = (client.create_flow_run_from_deployment(busy).id for _ in range(2))
    client.set_flow_run_state(silent, Running())
    reaping = client.create_flow_run_from_deployment(client.read_deployment_by_name("reaper/reaper").id)
    answer = client.request("POST", f"/work_pools/{LIGHT}/get_scheduled_flow_runs", json={})
    assert [each["flow_run"]["id"] for each in answer.json()] == [str(reaping.id)]


@flow
def asking() -> str:
    question = Approval.with_initial_data(description="?")
    return suspend_flow_run(question, timeout=600, key="asked").signed


def _heartbeat(client: SyncPrefectClient, run: UUID | str) -> None:
    """By HTTP: a socket that a busy server has closed would lose every one, without a word."""
    event = Event(event=reaper.HEARTBEAT, resource={"prefect.resource.id": f"prefect.flow-run.{run}"})
    client.request("POST", "/events", json=[event.model_dump(mode="json")])


def _until_heard(client: SyncPrefectClient, *runs: UUID) -> None:
    """Send heartbeats until the server has stored one of each run since now: on SQLite it drops some."""
    began, missing = datetime.now(UTC), set(runs)
    while missing:
        for run in missing:
            _heartbeat(client, run)
        time.sleep(1.0)
        missing -= {run for run in missing if (last := reaper.last_heartbeat(client, run)) and last > began}


def test_a_run_is_ended_by_its_state_and_its_heartbeats(client: SyncPrefectClient) -> None:
    """Suspend, pressed on a run in the middle of its work: its process sends one more heartbeat, and ends."""
    states = {"silent": Running, "cancelled": Cancelling, "suspended": Suspended, "alive": Running, "mute": Running}
    states["mute, cancelled"] = Cancelling
    runs = {name: client.create_flow_run(asking, state=state()).id for name, state in states.items()}
    _until_heard(client, *(run for name, run in runs.items() if "mute" not in name))
    since = datetime.now(UTC)
    assert not {run.id for run in reaper.silent_runs(client, since - timedelta(hours=1))} & set(runs.values())
    _until_heard(client, runs["alive"])
    ended = {run.id for run in reaper.silent_runs(client, since)} & set(runs.values())
    assert ended == {runs["silent"], runs["cancelled"], runs["mute, cancelled"]}


def test_a_run_whose_worker_was_gone_before_it_began_is_ended(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody starts it a second time, and whoever asked for it would wait without end."""
    taken, begun = (client.create_flow_run(asking, state=state()).id for state in (Pending, Running))
    reaper.reap()
    assert [client.read_flow_run(run).state_name for run in (taken, begun)] == ["Pending", "Running"]
    monkeypatch.setattr(reaper, "BEGINNING", timedelta(0))
    reaper.reap()
    state = client.read_flow_run(taken).state
    assert state is not None and state.is_crashed() and state.message == reaper.NEVER_BEGAN
    assert client.read_flow_run(begun).state_name == "Running"


def test_who_waits_for_it_is_told_how_a_silent_run_ended(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent, cancelled = (client.create_flow_run(asking, state=state()).id for state in (Running, Cancelling))
    monkeypatch.setattr(reaper, "silent_runs", lambda *_: [client.read_flow_run(run) for run in (silent, cancelled)])
    reaper.reap()
    ends = [client.read_flow_run(run).state for run in (silent, cancelled)]
    assert [(end.type, end.message) for end in ends if end] == [
        (StateType.CRASHED, reaper.LOST),
        (StateType.CANCELLED, reaper.LOST),
    ]


@pytest.mark.slow
def test_a_run_that_waits_for_an_answer_is_not_one_that_went_silent(
    client: SyncPrefectClient, deployed: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The automation starts the reaper, as it does on the local stack; a worker would run it."""
    monkeypatch.setattr(registration, "SILENCE", timedelta(seconds=20))
    monkeypatch.setattr(reaper, "SILENCE", timedelta(seconds=15))
    registration.register(devices=1)
    reaping = client.read_deployment_by_name("reaper/reaper").id
    deployed_as = client.create_deployment(client.create_flow(asking), "asking")
    waiting, silent = (client.create_flow_run_from_deployment(deployed_as).id for _ in range(2))
    with pytest.raises(Pause):
        run_flow(asking, flow_run=client.read_flow_run(waiting))
    _heartbeat(client, waiting)  # which was on its way
    client.set_flow_run_state(silent, Running())
    _until_heard(client, silent)

    ready = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
    deadline, state = time.monotonic() + 240, None
    while state is None or not state.is_final():
        assert time.monotonic() < deadline, state
        time.sleep(0.5)
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=ready)):
            if run.deployment_id == reaping:
                run_flow(reaper.reap, flow_run=run)
        state = client.read_flow_run(silent).state
    assert state.is_crashed() and state.message == reaper.LOST
    state = client.read_flow_run(waiting).state
    assert state is not None and state.name == "Suspended", state
    resume_flow_run(waiting, run_input={"signed": "bob"})
    assert run_flow(asking, flow_run=client.read_flow_run(waiting)) == "bob"


def _limits(client: SyncPrefectClient) -> dict[str, int | None]:
    return {name: client.read_work_pool(name).concurrency_limit for name in (LIGHT, GPU)}
