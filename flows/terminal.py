"""What the commands of `respect` share: the run's workspace, its options, and errors told in one message."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from flows import environment

if TYPE_CHECKING:
    from tasks.workspace import Workspace

console = Console()

RUNS = Path("runs")

Run = Annotated[str, typer.Option(help="Name of the run: everything it leaves lies in runs/NAME.")]


def run_workspace(run: str) -> Workspace:
    """The workspace of a run, with Prefect and MLflow set up for it."""
    environment.prepare(RUNS / run)
    from tasks.workspace import workspace

    return workspace(RUNS / run)


def end_on_sigterm() -> None:
    """SIGTERM ends this program as Ctrl-C does: with the Prefect server that it started, and its MLflow runs."""

    def end(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Expected failures end with one message instead of a traceback."""
    from respect_core.store import StoreError

    try:
        yield
    except (ValueError, StoreError, FileNotFoundError) as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        raise typer.Exit(1) from error
