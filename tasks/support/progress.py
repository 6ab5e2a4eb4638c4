"""Show the progress of long stages.

There are bars on a terminal if the command line asked for them, artifacts in Prefect if a worker did
(RESPECT_PROGRESS=artifacts), otherwise nothing.

Tasks run in threads of one process, so they all share one display.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext
from prefect.exceptions import PrefectException
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
        self._artifact = Artifact(description) if Artifact.wanted() else None

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        if _display is not None and self._task is not None:
            description = f"{self._description} {note}".rstrip()
            if total is None:
                _display.update(self._task, completed=done, description=description)
            else:
                _display.update(self._task, completed=done, total=total, description=description)
        if self._artifact is not None and total:
            self._artifact.update(100 * done / total)

    def finish(self) -> None:
        if _display is not None and self._task is not None:
            total = _display.tasks[_display.task_ids.index(self._task)].total
            _display.update(self._task, completed=total or 1, total=total or 1)
        if self._artifact is not None:
            self._artifact.update(100.0)


class Artifact:
    """Show a stage's progress in the Prefect UI, at most once in EVERY_SECONDS; an unreachable server is no error."""

    EVERY_SECONDS = 5.0

    def __init__(self, description: str) -> None:
        self._key = re.sub(r"[^a-z0-9]+", "-", description.lower()).strip("-")
        self._description = description
        self._id: UUID | None = None
        self._written = 0.0

    @staticmethod
    def wanted() -> bool:
        return os.environ.get("RESPECT_PROGRESS") == "artifacts" and TaskRunContext.get() is not None

    def update(self, percent: float) -> None:
        """Write the progress, unless it was written a moment ago; completion is always written."""
        if percent < 100 and time.monotonic() - self._written < self.EVERY_SECONDS:
            return
        self._written = time.monotonic()
        try:
            if self._id is None:
                self._id = create_progress_artifact(percent, key=self._key, description=self._description)  # type: ignore[assignment]  # not awaited: called outside an event loop
            else:
                update_progress_artifact(self._id, percent)
        except (httpx.HTTPError, PrefectException):
            pass  # the next write may succeed


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
