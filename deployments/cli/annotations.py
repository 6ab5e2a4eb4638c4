"""Offer commands for human evaluation: annotations, and the released dataset of the study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from flows.support.terminal import Commands, Run, clear_errors, console, run_workspace
from respect_core.errors import extra

if TYPE_CHECKING:
    from respect_core.scenarios.multiref.importers.released import ReleasedReport

Round = Annotated[int, typer.Option(min=0, help="Round that is annotated.")]
Variant = Annotated[str, typer.Option(help="Policy whose games or conversations are annotated, e.g. b-fft.")]

annotate_app = Commands(
    help="Human evaluation (appendix A.2): draw games or conversations to annotate, serve the page for conversations, "
    "import answers, and say how good the decoder is.",
    no_args_is_help=True,
)
released_import_app = Commands()  # under `respect import`
released_app = Commands()


@annotate_app.command("sample")
def sample_command(
    round: Round,
    variant: Variant,
    run: Run = "main",
    games: Annotated[int, typer.Option(min=1, help="How many games; 120 are about 1,000 turns.")] = 120,
    turns: Annotated[int, typer.Option(min=1, help="Of conversations: how many follow-ups.")] = 50,
    triple: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of games or conversations that three annotators see, for their agreement."
        ),
    ] = 0.05,
    seed: Annotated[int, typer.Option(help="Seed of the draw: the same seed draws the same.")] = 0,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Also write the tasks here, one JSON object a line.")
    ] = None,
) -> None:
    """Draw games, or follow-ups of conversations, for annotation. Targets and outcomes are not read."""
    workspace = run_workspace(run)
    from respect_core.measuring.annotation_tasks import AuditTask
    from tasks.games.annotating import sample

    with clear_errors():
        tasks = sample(workspace, round, variant, games=games, turns=turns, triple=triple, seed=seed, out=out)
    drawn = sum(len(task.turns) for task in tasks)
    several = sum(task.annotators > 1 for task in tasks)
    what = f"{len(tasks):,} games of {drawn:,} turns"
    if isinstance(tasks[0], AuditTask):
        what = f"{drawn:,} follow-ups in {len(tasks):,} conversations"
    console.print(f"{what} to annotate, {several:,} of them by three annotators")
    if out is not None:
        console.print(f"written to {out}", highlight=False, soft_wrap=True)


@annotate_app.command("queue")
def queue_command(
    run: Run = "main",
    round: Annotated[int | None, typer.Option(min=0, help="Round to review. Default: the newest decoded.")] = None,
    most: Annotated[int, typer.Option(min=0, help="Most follow-ups in the queue.")] = 200,
    audit: Annotated[int, typer.Option(min=0, help="Follow-ups of the uniform sample.")] = 50,
    annotators: Annotated[int, typer.Option(min=1, help="How many people see each; the majority counts.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the uniform sample.")] = 0,
) -> None:
    """Queue follow-ups for people to review: those on which decoders disagree or are unsure, and a uniform sample.

    The next round learns from what people say in the place of what was decoded.
    """
    workspace = run_workspace(run)
    with clear_errors():
        from respect_core.measuring.review.queue import draw

        drawn = draw(workspace.open(), round, most=most, audit=audit, annotators=annotators, seed=seed)
    console.print(
        f"{drawn.queued:,} of {drawn.unsure:,} follow-ups on which decoders disagree or are unsure, and "
        f"{drawn.audited:,} of all {drawn.decoded:,} drawn at random, wait for review",
        highlight=False,
    )


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


@annotate_app.command("page")
def page_command(
    run: Run = "main",
    host: Annotated[str, typer.Option(help="Address to listen on; put TLS in front of anything but this machine.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8080,
    secure: Annotated[bool, typer.Option(help="Behind TLS: cookies travel over TLS only.")] = False,
) -> None:
    """Serve the page on which drawn conversations are labelled, until Ctrl-C. Games are annotated in `respect play`."""
    workspace = run_workspace(run)
    with clear_errors(), extra("game"):
        import uvicorn

        from deployments import clients
        from deployments.game.engine.settings import Settings, tokens_from_environment
        from deployments.game.web.audit import create_audit_app
    with clear_errors():
        _, annotators = tokens_from_environment()
        if not annotators:
            raise ValueError("set RESPECT_ANNOTATOR_TOKENS to 'name:token', e.g. of `openssl rand -hex 16`")
        app = create_audit_app(workspace.open(), Settings(annotator_tokens=annotators, secure=secure))
    console.print(f"\nLabel at [bold]http://{host}:{port}[/]; Ctrl-C ends it\n", highlight=False)
    uvicorn.run(app, host=host, port=port, access_log=False, **clients.options())


@annotate_app.command("report")
def report_command(round: Round, variant: Variant, run: Run = "main") -> None:
    """Say how well each decoder finds negatives and positives, going by annotators' answers."""
    workspace = run_workspace(run)
    with clear_errors():
        from respect_core.measuring.cell import compare_decoders
        from respect_core.measuring.human_eval import build_annotations
        from respect_core.measuring.review.estimates import measure
        from respect_core.reporting.page_tables import LABEL_COLUMNS, by_label, label_figures
        from respect_core.store.manifests import Partition

        store = workspace.open()
        build_annotations(store)
        decoded = {
            name: each
            for name, each in compare_decoders(store, Partition(round, variant)).items()
            if each.against == "annotations" and each.by_label
        }
        reviewed = measure(store, [Partition(round, variant)])
        for name, found in reviewed.items():
            table = Table("review", *LABEL_COLUMNS)
            table.add_row(f"audit alone ({found.audited:,})", *label_figures(found.audit))
            table.add_row("with the queue", *label_figures(found.weighted))
            console.print(
                f"{name}: people labelled {found.labels:,} follow-ups, {found.replaced:,} of them otherwise",
                highlight=False,
            )
            console.print(table)
        if reviewed:
            console.print("95% intervals, which resample users", highlight=False)
        if not decoded and reviewed:
            return
        if not decoded:
            raise ValueError(
                f"nobody annotated decoded follow-ups of round {round}, variant {variant!r}; `respect annotate sample` "
                "or `queue` draws them, and `respect annotate page` shows them"
            )
    labelled = next(each.confusion.turns for each in decoded.values() if each.confusion)
    console.print(f"{labelled:,} follow-ups of round {round}, {variant}, as annotators label them", highlight=False)
    table = Table("decoder", *LABEL_COLUMNS)
    for name, each in decoded.items():
        table.add_row(name, *by_label(each))
    console.print(table)
    console.print("95% intervals, which resample conversations", highlight=False)


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
