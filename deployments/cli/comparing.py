"""`respect compare`: two registered versions on the same held-out prompts."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from deployments.cli.options import build, options
from flows.parameters import CompareParameters
from flows.support.terminal import Commands, Run, console, run_workspace, running

comparing_app = Commands()


@comparing_app.command("compare")
@options(CompareParameters, without=["first", "second"])
def compare_command(
    first: Annotated[str, typer.Argument(help=str(CompareParameters.model_fields["first"].description))],
    second: Annotated[str, typer.Argument(help=str(CompareParameters.model_fields["second"].description))],
    run: Run = "main",
    **given: Any,
) -> None:
    """Compare two versions: likelihood of held-out replies, with --judge which are better, or --live what users say."""
    parameters = build(CompareParameters, given, first=first, second=second)
    workspace = run_workspace(run)
    from flows.compare import compare as flow
    from tasks.release import compare, live

    with running():
        summary = flow(workspace, parameters)
    (live if parameters.live else compare).show(summary, console)
