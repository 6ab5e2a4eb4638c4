"""What the Prefect server is told, on a real one with a new database. tests/stack deploys what is here only counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.events import emit_event
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.flow_runs import resume_flow_run
from prefect.states import Running
from prefect.testing.utilities import prefect_test_harness

from deployments import registration
from deployments.settings import GPU, LIGHT, LIGHT_RUNS
from flows.promote import Approval
from flows.suspension import suspend

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with prefect_test_harness(server_startup_timeout=180), get_client(sync_client=True) as found:
        yield found


def test_what_is_registered_is_left_alone_until_something_of_it_changes(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed: list[None] = []

    def fail() -> None:
        raise ValueError("prefect.yaml was not deployed")

    monkeypatch.setattr(registration, "_deploy", fail)
    with pytest.raises(ValueError, match="was not deployed"):
        registration.register(devices=2)
    monkeypatch.setattr(registration, "_deploy", lambda: deployed.append(None))
    registration.register(devices=2)
    assert len(deployed) == 1, "what was not deployed is deployed the next time"
    assert _limits(client) == {LIGHT: LIGHT_RUNS, GPU: 2}

    client.update_work_pool(LIGHT, WorkPoolUpdate(concurrency_limit=3))  # as somebody does in the UI
    registration.register(devices=2)
    assert len(deployed) == 1 and _limits(client) == {LIGHT: 3, GPU: 2}

    registration.register(devices=4)  # there are more devices
    assert len(deployed) == 2 and _limits(client) == {LIGHT: LIGHT_RUNS, GPU: 4}
    assert len(client.read_automations_by_name(registration.SILENT)) == 1


def test_an_automation_of_before_becomes_what_it_is_now(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "_deploy", lambda: None)
    registration.register(devices=2)
    (now,) = client.read_automations_by_name(registration.SILENT)
    assert isinstance(now.trigger, EventTrigger)
    before = now.trigger.model_copy(update={"expect": {"prefect.flow-run.heartbeat", "prefect.flow-run.Completed"}})
    client.update_automation(
        now.id, AutomationCore(name=registration.SILENT, trigger=before, actions=list(now.actions))
    )
    client.pause_automation(now.id)  # as somebody does in the UI
    registration.register(devices=2)
    assert client.read_automation(now.id) == now.model_copy(update={"trigger": before, "enabled": False})
    registration.register(devices=4)
    assert client.read_automations_by_name(registration.SILENT) == [now.model_copy(update={"enabled": False})]


def _heartbeat(run: UUID | str) -> None:
    emit_event("prefect.flow-run.heartbeat", resource={"prefect.resource.id": f"prefect.flow-run.{run}"})


@flow
def asking(late: bool) -> str:
    """`late`: a heartbeat comes between Prefect's own word that the run is suspended and the end of its process."""
    question, save = Approval.with_initial_data(description="?"), Approval.save.__func__  # type: ignore[attr-defined]

    def saved(kind: type[Approval], *arguments: Any) -> Any:
        if late:
            _heartbeat(str(runtime.flow_run.id))
        return save(kind, *arguments)

    question.save = classmethod(saved)  # type: ignore[assignment]
    return suspend(question, seconds=600, key="asked").name


@pytest.mark.slow  # Prefect on SQLite drops events and answers late where its database is locked: two in nine runs fail
def test_a_run_that_waits_for_an_answer_is_not_one_that_went_silent(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first heartbeat of a run is on its way when it asks; that comes after or before Prefect's own word."""
    monkeypatch.setattr(registration, "SILENCE", timedelta(seconds=20))
    monkeypatch.setattr(registration, "_deploy", lambda: None)
    registration.register(devices=1)
    deployed_as = client.create_deployment(client.create_flow(asking), "asking")

    def made(late: bool) -> UUID:
        return client.create_flow_run_from_deployment(deployed_as, parameters={"late": late}).id

    waiting = [made(late=False), made(late=True)]
    for run in waiting:
        with pytest.raises(Pause):
            run_flow(asking, flow_run=client.read_flow_run(run))
    silent = made(late=False)
    client.set_flow_run_state(silent, Running())
    for _ in range(3):  # a server on SQLite may miss one
        time.sleep(1.0)
        _heartbeat(silent)

    deadline = time.monotonic() + 120
    while (state := client.read_flow_run(silent).state) is None or not state.is_final():
        assert time.monotonic() < deadline, state
        time.sleep(0.5)
    assert state.is_crashed() and state.message == registration.LOST
    for run in waiting:
        state = client.read_flow_run(run).state
        assert state is not None and state.name == "Suspended", state
        resume_flow_run(run, run_input={"approve": True, "name": "bob"})
        assert run_flow(asking, flow_run=client.read_flow_run(run)) == "bob"


def _limits(client: SyncPrefectClient) -> dict[str, int | None]:
    return {name: client.read_work_pool(name).concurrency_limit for name in (LIGHT, GPU)}
