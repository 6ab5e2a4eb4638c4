"""Where a flow's tasks run: in threads of its process, which stop when the flow is interrupted."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import httpx
from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.exceptions import Pause, PrefectException
from prefect.futures import PrefectFuture
from prefect.states import Cancelled
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from tasks.support.interruption import interrupts, stopping


def threads(most: int = 16) -> TaskRunner[PrefectFuture[Any]]:
    """Return a task runner whose tasks, `most` of them at once, do not outlive an interruption of their flow."""
    return _Threads(most)  # type: ignore[return-value]  # Prefect's type of runners is invariant in that of futures


class _Threads(ThreadPoolTaskRunner[Any]):
    """Prefect's task runner, whose exit waits until every task has ended by itself."""

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if not interrupts(error):
            try:
                super().__exit__(kind, error, traceback)
                return
            except BaseException:  # raised while waiting
                with stopping():
                    super().__exit__(kind, error, traceback)
                raise
        with stopping():
            super().__exit__(kind, error, traceback)
        if isinstance(error, Pause):
            _cancel_called()


def _cancel_called() -> None:
    """Cancel the run of a flow that ends since its caller was suspended, which calls it again when it is resumed.

    Prefect leaves that run in the state Running. The context is already the caller's here.
    """
    if (caller := runtime.flow_run.id) is None:
        return
    running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
    parent = FlowRunFilterParentFlowRunId(any_=[caller])
    with suppress(httpx.HTTPError, PrefectException), get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=running, parent_flow_run_id=parent)):
            if run.deployment_id is None:  # else it is in a process of its own
                client.set_flow_run_state(run.id, Cancelled(message="The run that called it was suspended."))
