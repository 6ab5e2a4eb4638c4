"""Offer `respect report`: tables and figures of a run, the paper's for its game, and a page like a short paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from flows.support.terminal import Commands, clear_errors, console, run_workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from respect_core.measuring.evidence import Evidence
    from respect_core.measuring.judge import ImageSimilarity
    from respect_core.reporting.changes import Changes
    from respect_core.store.manifests import Partition
    from tasks.support.workspace import Workspace

VISION = "vision"

report_app = Commands()


@report_app.command("report")
def report_command(
    study: Annotated[str, typer.Option(help="Name of the run, a study's or any other: runs/NAME.")],
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder of the report. Default: runs/NAME/report.")
    ] = None,
    similarity: Annotated[
        str | None,
        typer.Option(
            help="Similarity of images, for equation 3: a CSV or Parquet file (image_a, image_b, similarity), or "
            "'vision' for the frozen vision tower of the run's base model. Without it table 5 has none."
        ),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Compare with the paper's values: a verdict per cell, in published.csv.")
    ] = False,
    games: Annotated[
        bool,
        typer.Option(
            "--games/--no-games",
            "--conversations/--no-conversations",
            help="Show games or conversations turn by turn, with what users wrote: --no-games where this must not be "
            "seen.",
        ),
    ] = True,
) -> None:
    """Write the paper's tables and figures, or those of conversations, and one HTML page, from what was run."""
    workspace = run_workspace(study)
    with clear_errors():
        from respect_core.log import forgetting
        from respect_core.log.export import export_everything
        from respect_core.measuring.evidence import gather
        from respect_core.measuring.human_eval import build_annotations
        from respect_core.reporting.report import PAGE, write
        from tasks.reports import run_facts, study_pairs

        store, folder = workspace.open(), out or workspace.root / "report"

        def publish() -> tuple[Evidence, Changes | None]:
            export_everything(store)
            annotated = build_annotations(store)
            evidence = gather(
                store,
                study,
                run=workspace.root,
                systems=run_facts.systems(workspace.root),
                f=_image_similarity(workspace, similarity, annotated),
            )
            evidence = study_pairs.of_study(evidence, workspace.root)
            facts, learned = run_facts.facts(workspace.root), run_facts.learned(workspace.root)
            changes = write(evidence, folder, store=store if games else None, facts=facts, learned=learned)
            return evidence, changes

        evidence, changes = forgetting.settled(store, publish)
    policies = "1 policy" if len(evidence.cells) == 1 else f"{len(evidence.cells)} policies"
    console.print(f"{evidence.games:,} {evidence.words.interactions} of {policies}: {escape(str(folder / PAGE))}")
    if changes:
        console.print(
            f"since the report of {changes.since}: {len(changes.beyond)} cells moved beyond the intervals, "
            f"{changes.within} within, {len(changes.new)} are new, {len(changes.gone)} gone"
        )
    if published:
        _show_verdicts(evidence, folder)


def _image_similarity(
    workspace: Workspace, source: str | None, annotated: Sequence[Partition]
) -> ImageSimilarity | None:
    from respect_core.scenarios.multiref.similarity import from_features, from_table

    if source != VISION:
        return from_table(Path(source)) if source else None
    # This loads a model into memory, which nothing else in a report needs.
    from respect_core.measuring.human_eval import read_annotated
    from respect_core.model.base import load_base
    from respect_core.model.vision import VisionFeatures
    from respect_core.scenario import scenario
    from respect_core.store.images import load_images
    from tasks.reports import run_facts

    store = workspace.open()
    turns = [turn for partition in annotated for turn in read_annotated(store, *partition)]
    images = sorted({image for turn in turns for image in turn.context})
    if not images:
        return None  # table 5 is left out, and the page says why
    profile = run_facts.profile(workspace.root)
    base = load_base(profile.base, scenario(profile.scenario), image_size=profile.image_size)
    return from_features(VisionFeatures(base, load_images(store, images)), images)


def _show_verdicts(evidence: Evidence, folder: Path) -> None:
    """Show published and measured values side by side, on the terminal and in published.csv."""
    from respect_core.reporting.published import comma_separated, verdicts
    from respect_core.reporting.tables import grids
    from respect_core.reporting.verdicts import measured
    from tasks.support.files import write_whole

    figures = verdicts(measured(evidence, grids(evidence.cells)))
    write_whole(folder / "published.csv", comma_separated(figures))
    compared = [figure for figure in figures if figure.measured is not None]
    table = Table("cell", "published", "measured", "95% interval", "verdict", title="The paper's values, and these")
    for figure in compared:
        interval = "" if figure.low is None else f"{figure.low:.2f} to {figure.high:.2f}"
        cell = " ".join(filter(None, (str(figure.table), figure.row, figure.column)))
        verdict = "[green]agrees[/]" if figure.agrees else f"[red]differs[/]: {figure.why}"
        table.add_row(cell, f"{figure.published:g}", f"{figure.measured:.6g}", interval, verdict)
    console.print(table)
    agree = sum(bool(figure.agrees) for figure in compared)
    console.print(
        f"{agree} of {len(compared)} measured cells agree with the published ones; {len(figures) - len(compared)} "
        f"published cells are not measured here: {folder / 'published.csv'}",
        highlight=False,
        soft_wrap=True,
    )
