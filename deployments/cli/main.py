"""Define the `respect` command. Heavy imports wait until a command needs them, so that --help answers at once."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import typer

from deployments.approvals.__main__ import approvals
from deployments.cli.annotations import annotate_app, released_app, released_import_app
from deployments.cli.backups import backups_app
from deployments.cli.comparing import comparing_app
from deployments.cli.decoding import decoding_app
from deployments.cli.forgetting import forgetting_app
from deployments.cli.imports import import_app
from deployments.cli.links import link_app
from deployments.cli.options import On, build, options
from deployments.cli.promotion import promotion_app
from deployments.cli.quarantine import quarantine_app
from deployments.cli.report import report_app
from deployments.cli.search import search_app
from deployments.cli.talking import talking_app
from deployments.game.__main__ import play
from deployments.serving.__main__ import serve
from flows.parameters import (
    DemoParameters,
    EvaluateParameters,
    RoundParameters,
    SimulateParameters,
    StudyParameters,
    split,
)
from flows.support.terminal import (
    Commands,
    Run,
    clear_errors,
    console,
    end_on_sigterm,
    run_folder,
    run_workspace,
    running,
    warn_of_public_key,
)
from respect_core import __version__
from respect_core.variants import CONTROL

app = Commands(
    help="RESPECT: learn, round after round, from the feedback that users give without being asked.",
    no_args_is_help=True,
)
app.add_typer(import_app, name="import")
import_app.add_typer(released_import_app)
app.add_typer(released_app)
app.add_typer(annotate_app, name="annotate")
app.add_typer(backups_app)
app.add_typer(promotion_app)
app.add_typer(quarantine_app)
app.add_typer(link_app, name="link")
app.add_typer(report_app)
app.add_typer(forgetting_app)
app.add_typer(search_app)
app.add_typer(decoding_app)
app.add_typer(comparing_app)
app.add_typer(talking_app)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"respect {__version__}")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001  # its callback uses it
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Prepare every command."""
    if context.invoked_subcommand not in ("serve", "play", "approvals"):  # servers handle the signal themselves
        end_on_sigterm()


@app.command()
@options(DemoParameters)
def demo(run: Run = "demo", **values: Any) -> None:
    """Run one whole round with simulated speakers, from the seed policy's games to registered candidates."""
    parameters, workspace = build(DemoParameters, values), run_workspace(run, new=True)
    from flows.demo import demo as flow
    from tasks.reports import report

    with running():
        summary = flow(workspace, parameters)
    report.show(summary, console)
    report.show_pages(summary, console)
    console.print(
        f"\nOpen the Prefect UI and MLflow on this run, each with a command of its own,\n"
        f"  {sys.argv[0]} ui --run {run} --only prefect\n"
        f"  {sys.argv[0]} ui --run {run} --only mlflow\n"
        f"or both with [bold]make ui RUN={run}[/]. Its figures are in {workspace.root / 'summary.json'}",
        highlight=False,
        soft_wrap=True,
    )


@app.command("round")
@options(RoundParameters, without=["study_seed"])
def round_command(run: Run = "main", on: On = "here", **values: Any) -> None:
    """Run one round on the logs in the store: export, decode, subsample, train, select and register."""
    parameters, workspace = build(RoundParameters, values), run_workspace(run)
    from flows.round import round as flow
    from tasks.compute.places import Place, require
    from tasks.reports import report

    with clear_errors():
        require(Place(on))  # before Prefect starts
    with running():
        summary = flow(workspace, parameters, on=Place(on))
    report.show(summary, console)
    report.show_pages(summary, console)


@app.command("simulate")
@options(SimulateParameters)
def simulate_command(run: Run = "main", **values: Any) -> None:
    """Let simulated users play with what is deployed; their games go into the next round."""
    parameters, workspace = build(SimulateParameters, values), run_workspace(run, new=True)
    from flows.simulate import simulate as flow

    with running():
        number, played = flow(workspace, parameters)
    for cell in played:
        console.print(f"{cell.variant}: {cell.success:.0%} of {cell.games} games won, {cell.turns_per_game:.1f} turns")
    console.print(f"next: respect round --round {number} --run {run}", highlight=False)


@app.command("study")
@options(StudyParameters, without=["variants", "control"])
def study_command(
    run: Run = "study",
    variants: Annotated[
        list[str],
        typer.Option(
            help="Comma-separated variants, and 'control' to deploy the seed policy again in the last round; "
            "'all' means six variants and control. May be repeated.",
        ),
    ] = ["b-fft,control"],  # noqa: B006  # Typer reads it
    **values: Any,
) -> None:
    """Run the paper's experiment with simulated speakers, round after round. Run again, it resumes."""
    named = split(variants)
    learning = [name for name in named if name != CONTROL]
    if not learning:
        raise typer.BadParameter(f"{CONTROL} is deployed alongside variants that learn: name one, e.g. b-fft,{CONTROL}")
    control = CONTROL in named or variants == ["all"]
    parameters, workspace = (
        build(StudyParameters, values, variants=learning, control=control),
        run_workspace(run, new=True),
    )
    from flows.study import study as flow

    with running():
        from tasks.reports import report, study_report

        summary = flow(workspace, parameters)
    study_report.show(summary, console)
    report.show_over_rounds(workspace, parameters.variants, console)
    console.print(
        f"\nsummary.json, tables 2 to 4 and figure 4 are in {workspace.root}, the report in "
        f"{workspace.root / 'report' / 'index.html'}",
        highlight=False,
        soft_wrap=True,
    )


@app.command("study-summary")
def study_summary(
    studies: Annotated[list[str], typer.Argument(help="Names of finished studies' runs, e.g. study-0 study-1.")],
    run: Annotated[str, typer.Option(help="Where the means go: runs/NAME.")] = "study-mean",
) -> None:
    """Summarise several studies by their means: summary.json, tables 2 to 4 and figure 4."""
    folders, out = [run_folder(name) for name in studies], run_folder(run, new=True)

    with clear_errors():
        from tasks.reports import study_report

        summary = study_report.combine(folders, out)
    study_report.show(summary, console)
    console.print(f"\nsummary.json, tables 2 to 4 and figure 4 are in {out}", highlight=False, soft_wrap=True)


@app.command("evaluate")
@options(EvaluateParameters, argument="game_set")
def evaluate_command(run: Run = "main", **given: Any) -> None:
    """Compare the seed policy and a round's variants with each other and chance, on games that nobody trained on."""
    parameters, workspace = build(EvaluateParameters, given), run_workspace(run)
    from flows.evaluate import evaluate as flow
    from tasks.release import evaluate

    with running():
        summary = flow(workspace, parameters)
    evaluate.show(summary, console)


@app.command("relocate")
def relocate_command(
    run: Annotated[str, typer.Option(help="Name of the run, whose folder runs/NAME was moved or copied here.")],
) -> None:
    """Make the MLflow records of a moved or copied run say where it is now; the old place stays as it is."""
    folder = run_folder(run).resolve()
    from tasks.support.moved import relocate

    warn_of_public_key()
    with clear_errors():
        old = relocate(folder)
    change = f"is a run of its own now: no record says {old} any more" if old else "says where it is"
    console.print(f"{folder} {change}", highlight=False, soft_wrap=True, markup=False)


@app.command()
def ui(
    run: Run = "demo",
    only: Annotated[Literal["prefect", "mlflow"] | None, typer.Option(help="One of them; both by default.")] = None,
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect UI on 127.0.0.1.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow UI on 127.0.0.1.")] = 5000,
) -> None:
    """Open Prefect and MLflow on a run's records, until Ctrl-C."""
    workspace = run_workspace(run)
    from deployments.cli.ui import serve

    with clear_errors():
        serve(workspace, only, prefect_port, mlflow_port, console)


app.command()(serve)
app.command()(play)
app.command()(approvals)


if __name__ == "__main__":
    app()
