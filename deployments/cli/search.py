"""Offer `respect search`: train one variant of one round with each configuration of a named grid."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from deployments.cli.options import On, build, options
from flows.parameters import SearchParameters
from flows.support.terminal import Commands, Run, clear_errors, console, run_workspace, running
from respect_core.variants import Variant

search_app = Commands()


@search_app.command("search")
@options(SearchParameters, without=["variants", "study_seed", "replay", "propensity"])
def search_command(
    variant: Annotated[Variant, typer.Option(help="The variant to train.")],
    run: Run = "main",
    on: On = "here",
    **values: Any,
) -> None:
    """Search training settings: train, validate, compare in MLflow. Nothing is registered; run again, it resumes."""
    parameters, workspace = build(SearchParameters, values, variants=[variant]), run_workspace(run)
    from flows.search import search as flow
    from tasks.compute.places import Place, require
    from tasks.round import search

    with clear_errors():
        require(Place(on))  # before Prefect starts
    with running():
        summary = flow(workspace, parameters, on=Place(on))
    search.show(summary, console)
    console.print(
        f"\nThe same is in {search.results_file(workspace, summary)}, and in MLflow below the run "
        f"'search {parameters.grid} {variant} round {parameters.round}': respect ui --run {run} --only mlflow",
        highlight=False,
        soft_wrap=True,
    )
    if summary["failed"]:
        raise typer.Exit(1)
