"""Offer commands for human evaluation: annotations, and the released dataset of the study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.support.terminal import Commands, Run, clear_errors, console, run_workspace

if TYPE_CHECKING:
    from respect_core.scenarios.multiref.importers.released import ReleasedReport

annotate_app = Commands(
    help="Human evaluation (appendix A.2): draw games to annotate, import annotators' answers.", no_args_is_help=True
)
released_import_app = Commands()  # under `respect import`
released_app = Commands()


@annotate_app.command("sample")
def sample_command(
    round: Annotated[int, typer.Option(min=0, help="Round whose games are annotated.")],
    variant: Annotated[str, typer.Option(help="Policy whose games are annotated, e.g. b-fft.")],
    run: Run = "main",
    games: Annotated[int, typer.Option(min=1, help="How many games; 120 are about 1,000 turns.")] = 120,
    triple: Annotated[
        float, typer.Option(min=0, max=1, help="Share of games that three annotators see, for their agreement.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(help="Seed of the draw: the same seed draws the same games.")] = 0,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Also write the tasks here, one JSON object a line.")
    ] = None,
) -> None:
    """Draw games for annotation. Targets and outcomes are neither read nor put into the tasks."""
    workspace = run_workspace(run)
    from tasks.games.annotating import sample

    with clear_errors():
        tasks = sample(workspace, round, variant, games=games, triple=triple, seed=seed, out=out)
    turns = sum(len(task.turns) for task in tasks)
    several = sum(task.annotators > 1 for task in tasks)
    console.print(f"{len(tasks):,} games of {turns:,} turns to annotate, {several:,} of them by three annotators")
    if out is not None:
        console.print(f"written to {out}", highlight=False, soft_wrap=True)


@annotate_app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Answers, one JSON object a line.")],
    run: Run = "main",
) -> None:
    """Import annotators' answers. Importing a file again changes nothing."""
    workspace = run_workspace(run)
    from respect_core.measuring.human_eval import import_answers

    with clear_errors():
        report = import_answers(workspace.open(), file)
    console.print(f"{report.answers:,} answers")
    _set_aside(report.set_aside, report.problems, "answers")


@released_import_app.command("released")
def import_released_command(
    source: Annotated[
        str, typer.Argument(help="Folder of the dataset's Parquet files, or its name on the hub: lil-lab/respect.")
    ],
    tangrams: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder of KILOGRAM's SVG files; the tables need none."),
    ] = None,
    run: Run = "released",
) -> None:
    """Import the study's released dataset: games with p, annotations, decoded feedback, and their tables."""
    workspace = run_workspace(run, new=True)
    from respect_core.scenarios.multiref.importers.released import import_released

    with clear_errors():
        report = import_released(workspace.open(), source, tangrams)
    _show(report)


@released_app.command("export-released")
def export_released_command(
    directory: Annotated[Path, typer.Argument(file_okay=False, help="Folder for the Parquet files.")],
    run: Run = "main",
) -> None:
    """Write a run's tables in the schema of the released dataset, with a folder for each configuration."""
    workspace = run_workspace(run)
    from respect_core.scenarios.multiref.importers.released_schema import export_released

    with clear_errors():
        exported = export_released(workspace.open(), directory)
    for name, rows in exported.rows.items():
        console.print(f"{rows:>8,} rows of {name}")
    if exported.without_outcome:
        console.print(f"[yellow]{exported.without_outcome:,} games without an outcome are left out[/]")


def _show(report: ReleasedReport) -> None:
    for partition, games in report.games.items():
        console.print(f"round {partition.round} {partition.variant:<8} {games:>6,} games", highlight=False)
    console.print(
        f"{sum(report.games.values()):,} games, {report.turns:,} turns, {report.with_probability:,} with p, "
        f"{report.successes:,} won; {report.annotations:,} annotations; feedback on "
        + ", ".join(f"{turns:,} turns ({decoder})" for decoder, turns in report.feedback.items())
    )
    for count, what in (
        (report.ended_otherwise, "games that ended neither successful nor unsuccessful, counted as lost"),
        (report.unanswered, "last utterances without clicks, left out"),
        (report.without_turn_row, "turns without a row in turn, so without p"),
        (report.correctness_differs, "annotations whose correctness is not what their clicks say; the clicks count"),
        (report.labels_differ, "rows of feedback whose labels do not follow from the targets"),
        (
            report.without_picture,
            "images without a picture: tables are whole, but no games are drawn, annotated or learned from, and there "
            "are no similarities from 'vision'; import again with --tangrams for these",
        ),
    ):
        if count:
            console.print(f"[yellow]{count:,} {what}[/]", soft_wrap=True)
    _set_aside(report.set_aside, report.problems, "rows")


def _set_aside(count: int, key: str | None, what: str) -> None:
    if key is not None:
        console.print(f"[yellow]{count:,} {what} set aside, with reasons, in {key}[/]", soft_wrap=True)
