"""What the `respect` commands share: rules for options, the run's workspace, and errors shown as one message."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand, TyperOption

from flows.support import environment

if TYPE_CHECKING:
    from tasks.support.workspace import Workspace

console = Console()
_complaints = Console(stderr=True)

RUNS = Path("runs")
_PUBLIC_KEY = """RESPECT_USER_KEY is not set, so users' ids become pseudonyms under a key that everybody knows, and
whoever has the logs finds the ids by guessing. Stop, make a key, keep it, and set it from the first user on, in a new
run: export RESPECT_USER_KEY=$(openssl rand -hex 32)"""

Run = Annotated[str, typer.Option(help="Name of the run: everything it leaves lies in runs/NAME.")]


class Command(TyperCommand):
    """A command that refuses an option given twice, unless it takes several values: Click silently keeps the last."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for each in given:
            if isinstance(each, TyperOption) and not (each.multiple or each.is_eager) and given.count(each) > 1:
                ctx.fail(f"{each.opts[-1]} is given {given.count(each)} times and takes one value.")
        return super().parse_args(ctx, args)


class Commands(typer.Typer):
    """A Typer of such commands. A traceback does not print local variables, which hold what users wrote."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(pretty_exceptions_show_locals=False, **settings)

    def command(self, name: str | None = None, *, cls: type[TyperCommand] | None = Command, **settings: Any) -> Any:
        return super().command(name, cls=cls, **settings)


def run_workspace(run: str, *, new: bool = False) -> Workspace:
    """Return the workspace of a run, with Prefect and MLflow set up for it.

    Args:
        new: make the run if it is absent. Otherwise it must exist: a mistyped name is an error, unless RESPECT_STORE
            says that the run's data are not in its folder.

    Raises:
        typer.Exit: the name is invalid, or there is no such run (the message lists those that exist), or its folder
            was moved or copied and `respect relocate` has not been run yet.
    """
    from respect_core.settings import settings  # not for --help

    folder = run_folder(run, new=new or settings().store is not None)
    environment.prepare(folder)
    from tasks.support.moved import require_in_place
    from tasks.support.workspace import workspace

    found = workspace(folder)
    with clear_errors():
        require_in_place(found)
    return found


def run_folder(run: str, *, new: bool = False) -> Path:
    """Return the folder of a run. Raises typer.Exit as `run_workspace` does."""
    from tasks.support.workspace import checked_name

    with clear_errors():
        folder = RUNS / checked_name(run)
        if not new and not folder.is_dir():
            there = sorted(each.name for each in RUNS.glob("*") if each.is_dir())
            raise ValueError(f"no run {run!r} in {RUNS.resolve()}; there are: {', '.join(there) or 'none'}")
    return folder


def end_on_sigterm() -> None:
    """Let SIGTERM end this program as Ctrl-C does, along with its MLflow runs and the Prefect server it started."""

    def end(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)


def warn_of_public_key() -> None:
    """Warn if ids are to become pseudonyms under the key that everybody knows."""
    from respect_core.log.pseudonyms import pseudonyms_are_secret

    if not pseudonyms_are_secret():
        console.print(f"[bold yellow]warning:[/] {_PUBLIC_KEY}", highlight=False, soft_wrap=True)


@contextmanager
def running() -> Iterator[None]:
    """Run a flow on the terminal: with bars, clear errors, and a Prefect server that outlives Ctrl-C.

    The terminal also sends Ctrl-C to a server that this program started, which is needed until the runs have ended.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    from tasks.support import progress

    with clear_errors(), progress.shown():
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which the server inherits
        try:
            if PREFECT_API_URL.value() is None:
                from flows.support.temporary import TemporaryServer

                TemporaryServer()
            get_client(sync_client=True)  # starts it, unless one is configured
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        yield


@contextmanager
def clear_errors() -> Iterator[None]:
    """End expected failures with one message on standard error instead of a traceback."""
    from respect_core.errors import ExpectedError

    try:
        yield
    except (ValueError, ExpectedError, FileNotFoundError) as error:
        _complaints.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
