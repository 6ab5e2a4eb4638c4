"""`respect report`: the paper's tables and figures of a run, and a page that reads like a short paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from flows.terminal import RUNS, clear_errors, console, run_workspace

report_app = typer.Typer()


@report_app.command("report")
def report_command(
    study: Annotated[str, typer.Option(help="Name of the run, a study's or any other: runs/NAME.")],
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder of the report. Default: runs/NAME/report.")
    ] = None,
    similarity: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="CSV or Parquet file (image_a, image_b, similarity) for equation 3; without it table 5 has none.",
        ),
    ] = None,
    games: Annotated[
        bool, typer.Option(help="Draw games turn by turn, with what users wrote: leave out where it must not be seen.")
    ] = True,
) -> None:
    """Tables 2 to 9, figures 4 to 7, 14 and 15, and one HTML page, of whatever rounds and policies are there."""
    with clear_errors():
        if not (RUNS / study).is_dir():
            raise ValueError(f"no run {study!r} in {RUNS.resolve()}; play or import one, or name another")
        workspace = run_workspace(study)
        from respect_core.evidence import gather
        from respect_core.export import export_everything
        from respect_core.report import PAGE, write
        from respect_core.similarity import from_table
        from tasks import run_facts

        store, folder = workspace.open(), out or workspace.root / "report"
        export_everything(store)
        evidence = gather(
            store,
            study,
            run=workspace.root,
            systems=run_facts.systems(workspace.root),
            f=from_table(similarity) if similarity else None,
        )
        changes = write(evidence, folder, store=store if games else None, facts=run_facts.facts(workspace.root))
    console.print(f"{evidence.games:,} games of {len(evidence.cells)} policies: {escape(str(folder / PAGE))}")
    if changes:
        console.print(
            f"since the report of {changes.since}: {len(changes.beyond)} cells moved beyond the intervals, "
            f"{changes.within} within, {len(changes.new)} are new, {len(changes.gone)} gone"
        )
