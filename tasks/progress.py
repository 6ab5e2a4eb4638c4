"""Progress of long stages: bars on a terminal where the command line asked for them, nothing otherwise.

Tasks run in threads of one process, so one display serves them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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

    def __init__(self, description: str, total: int | None) -> None:
        self._description = description
        self._task = _display.add_task(description, total=total) if _display else None

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        if _display is not None and self._task is not None:
            description = f"{self._description} {note}".rstrip()
            if total is None:
                _display.update(self._task, completed=done, description=description)
            else:
                _display.update(self._task, completed=done, total=total, description=description)

    def finish(self) -> None:
        if _display is not None and self._task is not None:
            total = _display.tasks[_display.task_ids.index(self._task)].total
            _display.update(self._task, completed=total or 1, total=total or 1)


def about(seconds: float | None) -> str:
    """A note on the time left, e.g. ', about 12 min left'; empty where it is not known."""
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    return f", about {minutes // 60} h {minutes % 60} min left" if minutes >= 60 else f", about {minutes} min left"


@contextmanager
def bar(description: str, total: int | None = None) -> Iterator[Bar]:
    """A bar for the length of a stage."""
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
