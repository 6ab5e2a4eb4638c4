"""When a task is worth another try."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task


def if_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """A store or server that was away may be back in a moment; a ValueError is about the input and stays."""
    try:
        state.result()
    except ValueError:
        return False
    except BaseException:
        return True
    return False
