"""End runs whose process is gone, so that their slots are freed and the flows that wait for them ask again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Completed, Crashed

HEARTBEAT = "prefect.flow-run.heartbeat"
SILENCE = timedelta(seconds=240)
"""Runs send a heartbeat every 30 seconds; a very busy machine misses some."""
BEGINNING = timedelta(seconds=600)
"""A run that a worker took begins within this time, also where a cluster pulls an image for it."""
LOST = "No heartbeat: the process that ran it is gone."
NEVER_BEGAN = "It did not begin: the worker that took it is gone."
_PAGE = 200


@flow(name="reaper", flow_run_name="look for silent runs")
def reap() -> State[Any]:
    """End runs whose state is running or cancelling and whose last heartbeat is old, and those that did not begin.

    Heartbeats alone are not enough: a run that was suspended, or waits for an answer, may send one more and then none.
    """
    with get_client(sync_client=True) as client:
        now = datetime.now(UTC)
        silent = silent_runs(client, now - SILENCE) + unbegun_runs(client, now - BEGINNING)
        for run in silent:
            assert run.state is not None
            why = NEVER_BEGAN if run.state.is_pending() else LOST
            ended: State[Any] = Cancelled(message=why) if run.state.is_cancelling() else Crashed(message=why)
            client.set_flow_run_state(run.id, ended)
    return Completed(message=f"ended: {', '.join(run.name for run in silent) or 'none'}")


def silent_runs(client: SyncPrefectClient, since: datetime) -> list[FlowRun]:
    """Return the runs that a process should be running and that have sent heartbeats, but none since then.

    Among them are runs that somebody cancelled before then and that never sent one: their processes would have ended.
    """
    return [run for run in _runs(client, StateType.RUNNING, StateType.CANCELLING) if _is_silent(client, run, since)]


def unbegun_runs(client: SyncPrefectClient, since: datetime) -> list[FlowRun]:
    """Return the runs that a worker took before then and whose process has not begun."""
    return [run for run in _runs(client, StateType.PENDING) if run.state is not None and run.state.timestamp < since]


def _runs(client: SyncPrefectClient, *states: StateType) -> list[FlowRun]:
    wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))))
    found: list[FlowRun] = []
    while page := client.read_flow_runs(flow_run_filter=wanted, limit=_PAGE, offset=len(found)):
        found += page
    return found


def _is_silent(client: SyncPrefectClient, run: FlowRun, since: datetime) -> bool:
    assert run.state is not None
    if run.state.timestamp > since:
        return False  # it has just begun, or is being cancelled
    last = last_heartbeat(client, run.id)
    return run.state.is_cancelling() if last is None else last < since


def last_heartbeat(client: SyncPrefectClient, run: UUID) -> datetime | None:
    """Return when a run sent its last heartbeat, or None if it never sent one."""
    wanted = {"event": {"name": [HEARTBEAT]}, "resource": {"id": [f"prefect.flow-run.{run}"]}}
    answer = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1})
    found = answer.json()["events"]
    return datetime.fromisoformat(found[0]["occurred"]) if found else None
