"""When a task is worth another try, and how long to wait for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict

from respect_core.memory import no_room_on_cpu

if TYPE_CHECKING:  # workers ask `is_transient` too, and do without Prefect
    from prefect.client.schemas.objects import State, TaskRun
    from prefect.tasks import Task

DELAYS: list[float] = [2, 8, 20, 40, 60]
"""Seconds before each further try: what is away for a minute is back by the fourth; after the last the task fails."""

# About the input, the code or the installation: the next try would end the same way.
_LASTING = (ValueError, TypeError, LookupError, AttributeError, AssertionError, ImportError, NotImplementedError)


def if_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Prefect's question after a failure: is it worth another try?"""
    try:
        state.result()
    except BaseException as error:
        return is_transient(error)
    return False


def is_transient(error: BaseException) -> bool:
    """Whether it may go away by itself: a store or server that was away, a full disk, a process that was killed."""
    status = getattr(error, "get_http_status_code", None)  # MLflow's errors, of which a part says no for good
    if status is not None and 400 <= status() < 500:
        return status() in (408, 429)
    return not (isinstance(error, _LASTING) or no_room_on_cpu(error))


class _Retries(TypedDict):
    retries: int
    retry_delay_seconds: list[float]
    retry_condition_fn: Callable[[Task[..., Any], TaskRun, State[Any]], bool]


PATIENT: _Retries = {"retries": len(DELAYS), "retry_delay_seconds": DELAYS, "retry_condition_fn": if_transient}
"""Options of a task that outlasts a minute without store or MLflow."""
