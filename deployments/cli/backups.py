"""`respect backup` and `respect restore`: a run's store, ledger and registry, in one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn

from flows.support.terminal import Commands, Run, clear_errors, console, run_folder, run_workspace, warn_of_public_key

backups_app = Commands()


@backups_app.command("backup")
def backup_command(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="New file, such as main-2026-11-30.tar.")],
    run: Run = "main",
) -> None:
    """Write a run's store, ledger and registry to one file, after the round that runs, if any."""
    workspace = run_workspace(run)
    with clear_errors():
        from flows.support.locks import in_turn
        from tasks.registry.backups import back_up

        with in_turn(workspace), _members("copied") as progress:
            index = back_up(workspace, file, progress)
    console.print(f"{file}: {len(index.members):,} files, {file.stat().st_size:,} bytes", highlight=False, markup=False)
    if not index.registry:
        console.print(
            f"MLflow is at {workspace.tracking_uri}: back up its database and its artifacts now, in this order "
            "(docs/operations.md#backups)",
            highlight=False,
            markup=False,
        )


@backups_app.command("restore")
def restore_command(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="What `respect backup` wrote.")],
    run: Annotated[str, typer.Option(help="Name of the new run.")],
) -> None:
    """Make a new run of a backup, after checking each file's hash, and check that ledger and registry fit."""
    folder = run_folder(run, new=True)
    warn_of_public_key()
    with clear_errors():
        from tasks.registry.backups import misfits, restore

        with _members("restored") as progress:
            workspace = restore(file, folder, progress)
        wrong = misfits(workspace)
    for each in wrong:
        console.print(f"does not fit: {each}", highlight=False, markup=False, soft_wrap=True)
    if wrong:
        raise typer.Exit(1)
    console.print(f"{workspace.root}: tables are whole, and all versions of the ledger are there", highlight=False)


@contextmanager
def _members(done: str) -> Iterator[Callable[[str], None]]:
    """Show how many files are done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,} files"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(done, total=None)
        yield lambda _: progress.advance(task)
