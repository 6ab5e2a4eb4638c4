"""When a failed task is worth another try, and how long to wait before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict

from respect_core.model.memory import no_room_on_cpu
from tasks.support.interruption import sleep

if TYPE_CHECKING:  # workers call `is_transient` too, and do not import Prefect
    from prefect.client.schemas.objects import State, TaskRun
    from prefect.tasks import Task

DELAYS: list[float] = [2, 8, 20, 40, 60]
"""Seconds before each further try: a one-minute outage is over by the fourth; after the last the task fails."""

# Errors in the input, the code or the installation: the next try would end the same way.
_LASTING = (ValueError, TypeError, LookupError, AttributeError, AssertionError, ImportError, NotImplementedError)


def wait_if_transient(_task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Return whether a failed task is worth another try, after waiting until it is time for that.

    The wait is here and not in Prefect, where nothing could end it early (see tasks.support.interruption).
    """
    from prefect import get_run_logger

    try:
        state.result()
    except Exception as error:
        if not is_transient(error):
            return False
        seconds = DELAYS[min(run.run_count, len(DELAYS)) - 1]
        get_run_logger().warning("another try in %s seconds", seconds)
        sleep(seconds)
        return True
    return False


def is_transient(error: BaseException) -> bool:
    """Return whether an error may go away by itself: an unreachable store or server, a full disk, a killed process."""
    status = getattr(error, "get_http_status_code", None)  # MLflow's errors, some of which are final
    if status is not None and 400 <= status() < 500:
        return status() in (408, 429)
    return not (isinstance(error, _LASTING) or no_room_on_cpu(error))


class _Retries(TypedDict):
    retries: int
    retry_condition_fn: Callable[[Task[..., Any], TaskRun, State[Any]], bool]
    persist_result: bool


PATIENT: _Retries = {"retries": len(DELAYS), "retry_condition_fn": wait_if_transient, "persist_result": False}
"""Options of a task that survives a minute without store or MLflow, and whose results only the store keeps."""
