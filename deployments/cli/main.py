"""The `respect` command. Heavy imports wait until a command needs them, so that --help answers at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from deployments.cli.annotations import annotate_app, released_app, released_import_app
from deployments.cli.imports import import_app
from deployments.cli.promotion import promotion_app
from deployments.cli.report import report_app
from deployments.cli.search import search_app
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
from respect_core.profiles import PROFILES
from respect_core.variants import CONTROL, SYSTEMS, Propensity, Variant

app = Commands(
    help="RESPECT: learn, round after round, from the feedback that users give without being asked.",
    no_args_is_help=True,
)
app.add_typer(import_app, name="import")
import_app.add_typer(released_import_app)
app.add_typer(released_app)
app.add_typer(annotate_app, name="annotate")
app.add_typer(promotion_app)
app.add_typer(report_app)
app.add_typer(search_app)
ProfileName = Annotated[str, typer.Option(help=f"What to run with: {' or '.join(PROFILES)}.")]
Variants = Annotated[
    list[str], typer.Option(help="Comma-separated variants, or 'all'; may be repeated.", show_default="all")
]
Round = Annotated[int, typer.Option(min=0, help="Number of the round, counted from 0, the seed policy's deployment.")]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"respect {__version__}")
        raise typer.Exit


@app.callback()
def prepare(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Prepare every command."""
    end_on_sigterm()  # servers take the place of this program, and handle the signal themselves


def _named(variants: Sequence[str]) -> list[str]:
    """What an option names that takes several with commas, and may be repeated; each once."""
    return list(dict.fromkeys(name.strip() for given in variants for name in given.split(",")))


def _variants(names: Sequence[str]) -> list[Variant]:
    named = _named(names)
    if named == ["all"]:
        return list(SYSTEMS)
    try:
        return [Variant(name) for name in named]
    except ValueError as error:
        raise typer.BadParameter(f"{error}; there are: {', '.join(Variant)}, or 'all' for the first six") from None


@app.command()
def demo(
    run: Run = "demo",
    games: Annotated[int, typer.Option(min=10, help="Games that the seed policy plays in round 0.")] = 200,
    replay: Annotated[int, typer.Option(min=0, help="Games of the fixed set that every policy replays.")] = 60,
    variants: Variants = ["all"],  # noqa: B006  # Typer reads it
    profile: ProfileName = "tiny",
) -> None:
    """One whole round with simulated speakers, from the seed policy's games to registered candidates."""
    chosen, workspace = _variants(variants), run_workspace(run, new=True)
    from flows.demo import demo as flow
    from tasks.reports import report

    with running():
        summary = flow(workspace, profile=profile, games=games, replay=replay, variants=chosen)
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
def round_command(
    round: Round,
    run: Run = "main",
    profile: ProfileName = "tiny",
    variants: Variants = ["all"],  # noqa: B006  # Typer reads it
    validation: Annotated[
        str,
        typer.Option(
            help="Game set whose right turns choose the checkpoints; its games are kept out of training. "
            "Make one with `respect import games --game-set`."
        ),
    ] = "validation",
    propensity: Annotated[
        Propensity | None,
        typer.Option(
            help="Where p of equation 2 comes from when a log has none: 'logged' (an error), 'backfill' (computed "
            "under the policy that acted, if its adapter is registered), 'surrogate' (computed under the seed "
            "policy, an approximation). Default: the profile's (tiny: surrogate, idefics2-8b: logged)."
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Training seeds per variant. Default: the profile's.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps per training run. Default: the profile's.")
    ] = None,
    replay: Annotated[
        int, typer.Option(min=0, help="Games of a fixed simulated set that the seed and every new policy play.")
    ] = 0,
    on: Annotated[
        Literal["here", "ray"],
        typer.Option(help="Where decoding and training run: on this machine, or on the Ray cluster of RAY_ADDRESS."),
    ] = "here",
) -> None:
    """Export, decode, subsample, train, select and register: one round on the logs in the store."""
    chosen, workspace = _variants(variants), run_workspace(run)
    from flows.round import RoundParameters
    from flows.round import round as flow
    from tasks.compute.places import Place, require
    from tasks.reports import report

    with clear_errors():
        require(Place(on))  # before Prefect starts
    with running():
        summary = flow(
            workspace,
            RoundParameters(
                round=round,
                profile=profile,
                variants=chosen,
                validation=validation,
                propensity=propensity,
                seeds=seeds,
                max_steps=max_steps,
                replay=replay,
            ),
            on=Place(on),
        )
    report.show(summary, console)
    report.show_pages(summary, console)


@app.command("simulate")
def simulate_command(
    run: Run = "main",
    games: Annotated[int, typer.Option(min=1, help="Games of each variant.")] = 100,
    round: Annotated[
        int | None, typer.Option(min=0, help="Round of the log. Default: the one after the newest learned.")
    ] = None,
    variants: Variants = ["all"],  # noqa: B006  # Typer reads it
    profile: ProfileName = "tiny",
) -> None:
    """Simulated users play with what is deployed; their games are in the next round."""
    chosen, workspace = _variants(variants), run_workspace(run, new=True)
    from flows.simulate import SimulateParameters
    from flows.simulate import simulate as flow

    with running():
        number, played = flow(
            workspace, SimulateParameters(variants=chosen, games=games, number=round, profile=profile)
        )
    for each in played:
        console.print(f"{each.variant}: {each.success:.0%} of {each.games} games won, {each.turns_per_game:.1f} turns")
    console.print(f"next: respect round --round {number} --run {run}", highlight=False)


@app.command("study")
def study_command(
    run: Run = "study",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of learning; deployments are 0 to this number.")] = 6,
    variants: Annotated[
        list[str],
        typer.Option(
            help="Comma-separated variants, and 'control' to deploy the seed policy again in the last round; "
            "'all' means six variants and control. May be repeated.",
            show_default="b-fft,control",
        ),
    ] = ["b-fft,control"],  # noqa: B006  # Typer reads it
    games: Annotated[int, typer.Option(min=10, help="Games of every policy in every round.")] = 300,
    anchor_games: Annotated[
        int | None,
        typer.Option(
            min=10,
            help="Games that measure the seed policy in round 0, and again as control in the last round; nobody learns "
            "from those beyond --games. Default: four times as many.",
        ),
    ] = None,
    human_games: Annotated[int, typer.Option(min=0, help="Games between people (HH), in the last round.")] = 50,
    study_seed: Annotated[
        int, typer.Option(min=0, help="Drives contexts, speakers, sampling and training; another seed, another study.")
    ] = 0,
    profile: ProfileName = "tiny",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Training seeds per variant. Default: the profile's.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps per training run. Default: the profile's.")
    ] = None,
) -> None:
    """Run the paper's experiment with simulated speakers, round after round. Run again, it resumes where it stopped."""
    named = _named(variants)
    learning = [name for name in named if name != CONTROL]
    if not learning:
        raise typer.BadParameter(f"{CONTROL} is deployed beside variants that learn: name one, e.g. b-fft,{CONTROL}")
    if anchor_games is not None and anchor_games < games:
        raise typer.BadParameter(f"--anchor-games {anchor_games} must be at least --games {games}")
    chosen = _variants(learning)
    workspace = run_workspace(run, new=True)
    from flows.study import ANCHORS, StudyParameters
    from flows.study import study as flow
    from tasks.reports import report, study_report

    with running():
        summary = flow(
            workspace,
            StudyParameters(
                rounds=rounds,
                variants=chosen,
                control=named == ["all"] or CONTROL in named,
                games=games,
                anchor_games=ANCHORS * games if anchor_games is None else anchor_games,
                human_games=human_games,
                study_seed=study_seed,
                profile=profile,
                seeds=seeds,
                max_steps=max_steps,
            ),
        )
    study_report.show(summary, console)
    report.show_over_rounds(workspace, chosen, console)
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
    """Means over several studies: summary.json, tables 2 to 4 and figure 4."""
    folders, out = [run_folder(name) for name in studies], run_folder(run, new=True)
    from tasks.reports import study_report

    with clear_errors():
        summary = study_report.combine(folders, out)
    study_report.show(summary, console)
    console.print(f"\nsummary.json, tables 2 to 4 and figure 4 are in {out}", highlight=False, soft_wrap=True)


@app.command("evaluate")
def evaluate_command(
    game_set: Annotated[
        str, typer.Argument(help="A set kept with `respect import games --game-set NAME`; its right turns count.")
    ],
    run: Run = "main",
    round: Annotated[
        int | None, typer.Option(min=0, help="Round whose variants are compared. Default: the newest.")
    ] = None,
    profile: ProfileName = "tiny",
) -> None:
    """Exact match of the seed policy and a round's variants on games that nobody trained on, against chance."""
    workspace = run_workspace(run)
    from flows.evaluate import EvaluateParameters
    from flows.evaluate import evaluate as flow
    from tasks.release import evaluate

    with running():
        summary = flow(workspace, EvaluateParameters(game_set=game_set, round=round, profile=profile))
    evaluate.show(summary, console)


@app.command("relocate")
def relocate_command(
    run: Annotated[str, typer.Option(help="Name of the run, whose folder runs/NAME was moved or copied here.")],
) -> None:
    """Make the MLflow records of a moved or copied run say where it is now; what is in the old place stays."""
    folder = run_folder(run).resolve()
    from tasks.support.moved import relocate

    warn_of_public_key()
    with clear_errors():
        old = relocate(folder)
    said = f"{folder} is a run of its own now: no record says {old} any more" if old else f"{folder} says where it is"
    console.print(said, highlight=False, soft_wrap=True, markup=False)


@app.command()
def ui(
    run: Run = "demo",
    only: Annotated[str | None, typer.Option(help="'prefect' or 'mlflow'; both by default.")] = None,
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect UI on 127.0.0.1.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow UI on 127.0.0.1.")] = 5000,
) -> None:
    """Open Prefect and MLflow on what a run left; ends with Ctrl-C."""
    workspace = run_workspace(run)
    from deployments.cli.ui import serve

    with clear_errors():
        serve(workspace, only, prefect_port, mlflow_port, console)


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(context: typer.Context) -> None:
    """Answer users with what is deployed; `respect serve --help` lists its options."""
    # What is deployed stands above the flows: it is another program, in the place of this one.
    os.execv(sys.executable, [sys.executable, "-m", "deployments.serving", *context.args])


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def play(context: typer.Context) -> None:
    """Play in the browser with what is deployed, or run a study; `respect play --help` lists its options."""
    os.execv(sys.executable, [sys.executable, "-m", "deployments.game", *context.args])


if __name__ == "__main__":
    app()
