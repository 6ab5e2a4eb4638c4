"""What becomes of flows whose caller is suspended."""

from __future__ import annotations

import uuid

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.exceptions import Pause
from prefect.states import Suspended

from flows.support.threads import threads

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_a_flow_whose_caller_is_suspended_does_not_stay_running() -> None:
    names = [uuid.uuid4().hex, uuid.uuid4().hex]

    @flow(flow_run_name=names[0], task_runner=threads())
    def inner() -> None:
        raise Pause(state=Suspended())  # as Prefect does before its next task

    @flow(flow_run_name=names[1], task_runner=threads())
    def outer() -> None:
        inner()

    @flow
    def caller() -> None:
        outer()

    with pytest.raises(Pause):
        caller()
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=names)))
    assert [run.state_name for run in runs] == ["Cancelled", "Cancelled"]
