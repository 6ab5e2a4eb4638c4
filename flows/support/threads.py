"""Where a flow's tasks run: in threads of its process, which stop when the flow is interrupted."""

from __future__ import annotations

from typing import Any

from prefect.futures import PrefectFuture
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
