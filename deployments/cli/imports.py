"""Offer `respect import`: import games from elsewhere into the store, and undo that."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from flows.support.terminal import Commands, Run, clear_errors, console, run_workspace

import_app = Commands(help="Bring logs from elsewhere into the store.", no_args_is_help=True)


@import_app.command("games")
def import_games(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The authors' pickled games.")],
    tangrams: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of KILOGRAM's SVG files.")],
    round: Annotated[int, typer.Option(min=0, help="Number of the round whose games these are.")],
    variant: Annotated[str, typer.Option(help="The policy that acted, e.g. b-fft.")],
    run: Run = "main",
    acted_by: Annotated[
        str | None,
        typer.Option(help="The registered version that acted, e.g. respect.b-fft/3, for `--propensity backfill`."),
    ] = None,
    game_set: Annotated[
        str | None,
        typer.Option(
            help="Also add a share of the games to the set of this name, for --validation, `respect evaluate`, or, as "
            "'gate', `respect promote`. No round trains on them, unless the name is d0."
        ),
    ] = None,
    share: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=1,
            help="Share of the games in --game-set, chosen by a hash of their id; those of 'gate' are no other set's, "
            "where shares are at most 0.5.",
        ),
    ] = 0.2,
) -> None:
    """Import games in the study's published format. The file is read without executing anything in it."""
    workspace = run_workspace(run, new=True)
    from tasks.games.importing import import_games as task

    with clear_errors():
        imported = task(
            workspace,
            file,
            tangrams,
            round=round,
            variant=variant,
            acted_by=acted_by,
            game_set=game_set,
            share=share,
        )
    report = imported.report
    console.print(
        f"{report.games:,} games, {report.turns:,} turns, {report.turns_with_followup:,} with a follow-up, "
        f"{report.successes:,} won; {report.images:,} images, {report.new_images:,} of them new"
    )
    if report.problems:
        console.print(f"[yellow]{report.set_aside} games set aside, with reasons, in {report.problems}[/]")
    if game_set and report.log:
        console.print(
            f"game set {game_set!r}: {imported.held_now:,} games added, {imported.held_in_all:,} in all",
            highlight=False,
        )


@import_app.command("chats")
def import_chats(
    paths: Annotated[list[str], typer.Argument(help="Files, folders or patterns of chat logs, or s3://bucket/prefix.")],
    run: Run = "main",
    profile: Annotated[str, typer.Option(help="Whose base model and decoder read them.")] = "chat",
    format: Annotated[str | None, typer.Option(help="Of the files. Empty: found out, file by file.")] = None,
    redact: Annotated[bool, typer.Option(help="Mask personal data before anything is stored.")] = True,
    round: Annotated[int, typer.Option(min=0, help="Number of the round whose conversations these are.")] = 0,
    variant: Annotated[
        str, typer.Option(help="The policy that answered; 'seed' for any before the first round.")
    ] = "seed",
    d0_share: Annotated[float, typer.Option(min=0, max=0.5, help="Share of users for D0.")] = 0.1,
    validation_share: Annotated[float, typer.Option(min=0, max=0.5, help="Share of users for validation.")] = 0.2,
    gate_share: Annotated[float, typer.Option(min=0, max=0.5, help="Share of users to judge candidates by.")] = 0.2,
) -> None:
    """Import conversations with an assistant, in any of 14 formats."""
    workspace = run_workspace(run, new=True)
    from respect_core.profiles import profile as named_profile
    from tasks.games.chats import import_chats as task

    with clear_errors():
        imported = task(
            workspace,
            paths,
            named_profile(profile),
            format=format,
            redact=redact,
            round=round,
            variant=variant,
            d0_share=d0_share,
            validation_share=validation_share,
            gate_share=gate_share,
        )
    console.print(escape(str(imported.understood)), highlight=False, soft_wrap=True)
    held = ", ".join(f"{name} {count:,}" for name, count in imported.held.items()) or "none"
    console.print(f"to learn from: {imported.learned_from:,}; held out: {held}", highlight=False)
    if imported.problems:
        console.print(f"[yellow]set aside, with reasons, in {imported.problems}[/]", soft_wrap=True)


@import_app.command("list")
def list_imports(run: Run = "main") -> None:
    """List what was imported, the oldest first."""
    workspace = run_workspace(run)
    from respect_core.log.imports import known

    table = Table("name", "file", "round", "variant", "games", "game sets", "when")
    with clear_errors():
        for each in known(workspace.open()):
            held = ", ".join(f"{name} ({len(ids)})" for name, ids in each.held.items())
            row = (each.name[:12], each.file, each.partition.round, each.partition.variant, each.games, held)
            table.add_row(*(escape(str(cell)) for cell in (*row, each.imported_at)))
    console.print(table)


@import_app.command("undo")
def undo_import(
    name: Annotated[
        str, typer.Argument(help="Name of the import, or how it begins: `respect import list` has the names.")
    ],
    run: Run = "main",
) -> None:
    """Undo an import: its games leave the log, the tables and the game sets. Pictures and annotations stay."""
    workspace = run_workspace(run)
    from tasks.games.importing import undo_import as task

    with clear_errors():
        record, trained = task(workspace, name)
    round, variant = record.partition
    console.print(f"undone: {record.games:,} games of {escape(record.file)}, round {round}, variant {variant}")
    for training in trained:
        console.print(
            f"[yellow]What {training.variant} learned in round {training.round} stays: it was made from these games "
            "among others. Run that round again to learn without them.[/]",
            soft_wrap=True,
        )
