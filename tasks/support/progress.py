"""Show the progress of long stages: as bars on a terminal if the command line asked for them, else in the run's log.

Tasks run in threads of one process, so they all share one display.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console()
_display: Progress | None = None


class Bar:
    """One stage's bar. `update` takes absolute positions, so that callbacks need no state."""

    SECONDS = 15.0
    """Between two lines of the log."""

    def __init__(self, description: str, total: int | None) -> None:
        self._description = description
        self._task = _display.add_task(description, total=total) if _display else None
        self._logged = time.monotonic()

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        description = f"{self._description} {note}".rstrip()
        if _display is not None and self._task is not None:
            _display.update(self._task, completed=done, total=total, description=description)
        elif total and time.monotonic() - self._logged > self.SECONDS:
            self._logged = time.monotonic()
            with suppress(MissingContextError):  # called outside of a run
                get_run_logger().info("%s: %.0f%%", description, 100 * done / total)

    def finish(self) -> None:
        if _display is not None and self._task is not None:
            total = _display.tasks[_display.task_ids.index(self._task)].total or 1
            _display.update(self._task, completed=total, total=total)


def say(text: str) -> None:
    """Say something above the bars, or in the run's log."""
    if _display is not None:
        _display.console.print(text, highlight=False, markup=False, soft_wrap=True)
    else:
        with suppress(MissingContextError):  # called outside of a run
            get_run_logger().info(text)


def about(seconds: float | None) -> str:
    """Return a note on the time left, e.g. ', about 12 min left'; empty if it is not known."""
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    return f", about {minutes // 60} h {minutes % 60} min left" if minutes >= 60 else f", about {minutes} min left"


@contextmanager
def bar(description: str, total: int | None = None) -> Iterator[Bar]:
    """Show a bar for the duration of a stage."""
    stage = Bar(description, total)
    yield stage
    stage.finish()


@contextmanager
def shown() -> Iterator[None]:
    """Show bars on the terminal while inside."""
    global _display
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as _display:
        try:
            yield
        finally:
            _display = None
