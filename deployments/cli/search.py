"""`respect search`: one variant of one round with each configuration of a named grid."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from flows.support.terminal import Commands, Run, clear_errors, console, run_workspace
from respect_core.learning.grids import GRIDS
from respect_core.profiles import PROFILES
from respect_core.variants import Variant

search_app = Commands()


@search_app.command("search")
def search_command(
    variant: Annotated[Variant, typer.Option(help="The variant to train.")],
    round: Annotated[int, typer.Option(min=0, help="The round whose games, and those before, it learns from.")] = 0,
    grid: Annotated[
        str,
        typer.Option(
            help=f"Settings to try: {', '.join(GRIDS)}. The first is Table 1's search space, one setting changed at a "
            "time; the second all its combinations; the third is around the profile's own settings."
        ),
    ] = "table-1",
    limit: Annotated[int | None, typer.Option(min=1, help="Try at most so many of them, at random.")] = None,
    run: Run = "main",
    profile: Annotated[str, typer.Option(help=f"What to run with: {' or '.join(PROFILES)}.")] = "tiny",
    validation: Annotated[
        str, typer.Option(help="Game set whose right turns choose; its games are kept out of training.")
    ] = "validation",
    seeds: Annotated[int | None, typer.Option(min=1, help="Training seeds of each. Default: the profile's.")] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps per training run. Default: the profile's.")
    ] = None,
    on: Annotated[
        Literal["here", "ray"],
        typer.Option(help="Where decoding and training run: on this machine, or on the Ray cluster of RAY_ADDRESS."),
    ] = "here",
) -> None:
    """Search training settings: train, validate, compare in MLflow. Nothing is registered; run again, it resumes."""
    workspace = run_workspace(run)
    from flows.search import SearchParameters
    from flows.search import search as flow
    from tasks.compute.places import Place, require
    from tasks.round import search
    from tasks.support import progress

    with clear_errors(), progress.shown():
        require(Place(on))  # before Prefect starts
        summary = flow(
            workspace,
            SearchParameters(
                round=round,
                variants=[variant],
                grid=grid,
                limit=limit,
                profile=profile,
                validation=validation,
                seeds=seeds,
                max_steps=max_steps,
            ),
            on=Place(on),
        )
    search.show(summary, console)
    console.print(
        f"\nThe same is in {search.results_file(workspace, summary)}, and in MLflow below the run "
        f"'search {grid} {variant} round {round}': respect ui --run {run} --only mlflow",
        highlight=False,
        soft_wrap=True,
    )
    if summary["failed"]:
        raise typer.Exit(1)
