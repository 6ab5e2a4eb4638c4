"""Offer commands for deployed versions: promote, look at canaries, roll back, list the ledger, and trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from deployments.cli.options import build, options
from flows.promotion_parameters import PromoteParameters, RollbackParameters
from flows.support.terminal import Commands, Run, clear_errors, console, run_workspace, running
from respect_core.variants import Variant

promotion_app = Commands()


@promotion_app.command("promote")
@options(PromoteParameters, argument="variant")
def promote_command(run: Run = "main", **given: Any) -> None:
    """Deploy a variant's candidate if it passes the gate, to all users or a share. Ends with code 3 if it does not."""
    parameters, workspace = build(PromoteParameters, given), run_workspace(run)
    from flows.promote import promote as flow

    if parameters.approve:
        console.print(f"Once the gate is passed, answer in another terminal: respect approve --run {run}")
    with running():
        result = flow(workspace, parameters)
    console.print(f"[bold]{result.decision}[/]: {result.version} is deployed", highlight=False)
    for sentence in result.reasons:
        console.print(f"- {sentence}", highlight=False, markup=False)
    if result.decision == "no promotion":
        raise typer.Exit(3)
    if result.decision == "canary began":
        console.print(f"next: respect canary --watch 60 --run {run}, which looks and decides", highlight=False)


@promotion_app.command("canary")
def canary_command(
    run: Run = "main",
    watch: Annotated[
        float | None, typer.Option(min=1, help="Look again and again, after this many seconds, until none is in force.")
    ] = None,
) -> None:
    """Look at the canaries in force: promote or end what users' conversations decide."""
    workspace = run_workspace(run)
    from flows.canary import look_at_canaries as flow
    from tasks.release.canary import follow

    with running():
        follow(workspace, lambda: flow(workspace), console, watch)


@promotion_app.command("approve")
def approve_command(
    promotion: Annotated[
        str | None, typer.Argument(help="The promotion's name, e.g. 'promote b-fft', or id. Default: the only one.")
    ] = None,
    run: Run = "main",
    refuse: Annotated[bool, typer.Option("--refuse", help="Do not let it go through.")] = False,
    note: Annotated[str, typer.Option(help="Why, for the ledger.")] = "",
) -> None:
    """Answer a promotion that waits for a person, as the account of this machine that owns the run's folder."""
    workspace = run_workspace(run)
    from respect_core.release.approvals import Person, account_key
    from respect_core.settings import settings

    with clear_errors():
        name, key = account_key(settings().root or workspace.root)  # on a work pool, the workers' folder
    with running():
        from prefect.client.orchestration import get_client

        from tasks.release import approval

        with get_client(sync_client=True) as client:
            found = [each for each in approval.waiting(client) if promotion in (None, each.name, str(each.run))]
            if len(found) != 1:
                waiting = "; ".join(f"{each.name} ({each.run})" for each in found)
                raise ValueError(f"name one of those that wait: {waiting}" if found else "no such promotion waits")
            console.print(found[0].text, highlight=False, markup=False, soft_wrap=True)
            approval.give(client, found[0], Person(name, "account"), key, approve=not refuse, note=note)
    console.print(f"{name} {'refuses' if refuse else 'approves'}; the promotion continues", highlight=False)


@promotion_app.command("rollback")
@options(RollbackParameters, argument="variant")
def rollback_command(run: Run = "main", **given: Any) -> None:
    """End a canary, or put back what was deployed before the newest promotion. Another one goes one further back."""
    parameters, workspace = build(RollbackParameters, given), run_workspace(run)
    from flows.promote import rollback as flow

    with running():
        result = flow(workspace, parameters)
    console.print(f"[bold]{result.decision}[/]: {result.version} is deployed", highlight=False)


@promotion_app.command("ledger")
def ledger_command(
    variant: Annotated[Variant | None, typer.Argument(help="The variant, e.g. b-fft. Default: all.")] = None,
    run: Run = "main",
) -> None:
    """Show who put which version in front of users, when, and why; a model's last entry is what is deployed."""
    workspace = run_workspace(run)
    from respect_core.release import canary_looks, ledger, looks
    from tasks.registry.registry import model_name
    from tasks.release.promote import ledger_table

    with clear_errors():
        store = workspace.open()
        known = {*ledger.models(store), *looks.models(store)}
        models = [model_name(variant)] if variant else sorted(known)
        console.print(ledger_table([entry for model in models for entry in ledger.entries(store, model)]))
        for model in models:
            if found := looks.read(store, model):
                console.print(f"{found[-1]}", highlight=False, markup=False, soft_wrap=True)
            if canaries := canary_looks.read(store, model):
                console.print(f"{canaries[-1]}", highlight=False, markup=False, soft_wrap=True)


@promotion_app.command("triggers")
def triggers_command(
    version: Annotated[str, typer.Argument(help="A registered version, e.g. respect.b-fft/3.")], run: Run = "main"
) -> None:
    """Show the words that the gate tries on a version, with who taught them; it shows what users wrote."""
    workspace = run_workspace(run)
    from respect_core.release.triggers import suspects

    with clear_errors():
        words = suspects(workspace.open(), version)
    for word in words:
        users = ", ".join(word.users)
        console.print(f"{word.hash} {word.text!r}: {word.turns} turns of {users}", highlight=False, markup=False)
    if not words:
        console.print(f"{version} learned no word from few users alone")


@promotion_app.command("gate-power")
def gate_power_command(
    profile: Annotated[str, typer.Option(help="Whose gate.")] = "tiny",
    runs: Annotated[int, typer.Option(min=10, help="Simulated promotions of each effect, and ratchets.")] = 1000,
    games: Annotated[int | None, typer.Option(min=1, help="Games to accept. Default: those that it asks for.")] = None,
    canary: Annotated[
        str | None, typer.Option(help="Simulate canaries of this share instead, such as 10%, and not the gate.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Simulate how often the gate promotes policies that are truly better or worse, and where bad rounds end."""
    from dataclasses import replace

    from rich.progress import track

    from respect_core.release import gate_power

    if canary is not None:
        return _canary_power(canary, runs, json_file)
    from respect_core.release.gate import gate

    settings = replace(gate(profile), games=games)
    rows = [
        gate_power.row(settings, effect, runs, number)
        for number, effect in enumerate(track(gate_power.EFFECTS, "effects", console=console))
    ]
    ends = [gate_power.ratchet(settings, number) for number in track(range(runs), "ratchets", console=console)]
    found: dict[str, Any] = {
        "profile": profile,
        "runs": runs,
        "rows": rows,
        "ratchet": gate_power.summary(settings, ends),
    }
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=2) + "\n")
    for each in rows:
        console.print(f"truly {each['effect']:+.0%}, {each['games']} games: promoted {each['promoted']:.1%}")
    bad = found["ratchet"]
    console.print(
        f"{bad['rounds']} rounds whose candidates are truly {bad['effect']:+.0%}: "
        f"{bad['moved']:.1%} of {runs} promote any, the worst ends at {bad['lowest']:+.0%}",
        soft_wrap=True,
    )


def _canary_power(share: str, runs: int, json_file: Path | None) -> None:
    """Simulate canaries whose candidates are truly better or worse."""
    from rich.progress import track

    from respect_core.release import canary_power
    from respect_core.release.canary import share as named

    with clear_errors():
        canary = canary_power.planned(named(share))
    effects = track(canary_power.EFFECTS, "effects", console=console)
    rows = [canary_power.row(canary, effect, runs, number) for number, effect in enumerate(effects)]
    found: dict[str, Any] = {
        "share": canary.share,
        "runs": runs,
        "finds_harm": canary.plan.finds_harm(canary.share),
        "most": canary.most,
        "rows": rows,
        "turning": canary_power.turning(canary, runs),
    }
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=2) + "\n")
    for each in rows:
        console.print(
            f"truly {each['effect']:+.0%}: promoted {each['promoted']:.1%}, rolled back {each['rolled_back']:.1%}, "
            f"after {each['conversations_median']:,} conversations, 95% within {each['conversations_p95']:,}",
            soft_wrap=True,
        )
    late = found["turning"]
    console.print(
        f"{late['effect']:+.0%} from conversation {late['turns']:,} on: rolled back {late['rolled_back']:.1%}, "
        f"{late['more_median']:,} conversations later, 95% within {late['more_p95']:,}",
        soft_wrap=True,
    )


@promotion_app.command("lineage")
def lineage_command(
    version: Annotated[str | None, typer.Argument(help="A registered version, e.g. respect.b-fft/3.")] = None,
    turn: Annotated[
        str | None, typer.Option(help="INTERACTION/TURN, turns counted from 0: list the versions that learned from it.")
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="Pseudonym of a user: list the versions that learned from them.")
    ] = None,
    run: Run = "main",
) -> None:
    """Show what a version was made from, down to the log; or every version that learned from a turn or a user."""
    if sum(criterion is not None for criterion in (version, turn, user)) != 1:
        raise typer.BadParameter("give a version, or --turn, or --user")
    interaction_id, _, number = (turn or "/0").rpartition("/")
    if turn and not (interaction_id and number.isdecimal()):
        raise typer.BadParameter(f"{turn!r} is not INTERACTION/TURN, e.g. game-12/3")
    workspace = run_workspace(run)
    from respect_core.release.lineage import learned_from
    from tasks.registry import lineage

    with clear_errors():
        if version:
            console.print(lineage.tree(workspace, version), highlight=False, soft_wrap=True)
        elif turn:
            versions = learned_from(workspace.open(), interaction_id=interaction_id, turn=int(number))
            console.print(lineage.table(f"Learned from turn {number} of {interaction_id}", versions))
        else:
            console.print(lineage.table(f"Learned from user {user}", learned_from(workspace.open(), user=user)))
