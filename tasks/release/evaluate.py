"""Exact match of registered policies on the correct turns of a named set of games, against chance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple
from typing import Any

import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from prefect import task
from prefect.artifacts import create_table_artifact
from rich.console import Console
from rich.table import Table

from respect_core.log.records import InteractionLog
from respect_core.measuring.judge import judge
from respect_core.profiles import Profile
from respect_core.release import lineage
from respect_core.stats import Estimate, ratio
from respect_core.store.base import Store
from respect_core.training_data import curated
from respect_core.variants import SEED, Variant
from tasks.compute import process
from tasks.compute.specs import EvaluateSpec
from tasks.registry import registry
from tasks.registry.lineage import keep_lineage
from tasks.registry.register import reference
from tasks.support import progress
from tasks.support.files import write_whole
from tasks.support.references import EvaluatedRef, RegisteredRef
from tasks.support.workspace import Workspace


def policies(workspace: Workspace, game_set: str, round: int | None) -> tuple[int, list[RegisteredRef]]:
    """Return the seed policy and the variants registered after a round, the newest round by default.

    Raises:
        ValueError: no such game set, no seed policy, no variant of that round, or a policy that learned from the games,
            was chosen by them, or has no record of what it learned from.
    """
    found = {variant: registry.of_rounds(workspace, variant) for variant in Variant}
    rounds = sorted({int(version.tags["round"]) for versions in found.values() for version in versions})
    seed = registry.latest(workspace, SEED)
    number = round if round is not None else max(rounds, default=0)
    if seed is None or number not in rounds:
        known = ", ".join(map(str, rounds)) or "none"
        raise ValueError(f"no variants of round {number} in {workspace.tracking_uri}; rounds there are: {known}")
    chosen: dict[str, ModelVersion] = {SEED: seed}
    for variant, versions in found.items():
        if of_round := [version for version in versions if int(version.tags["round"]) == number]:
            chosen[variant] = max(of_round, key=lambda version: int(version.version))
    for version in chosen.values():
        require_unseen(workspace, f"{version.name}/{version.version}", game_set)
        require_not_chosen_on(workspace, f"{version.name}/{version.version}", game_set)
    return number, [reference(variant, version) for variant, version in chosen.items()]


@task(name="evaluate", task_run_name="evaluate {policy.variant} on {game_set}", persist_result=False)
def evaluate_policy(workspace: Workspace, profile: Profile, policy: RegisteredRef, game_set: str) -> EvaluatedRef:
    """Measure the exact match of one policy, turn by turn, in a process of its own."""
    version = registry.named(workspace, f"{policy.model}/{policy.version}")
    spec = EvaluateSpec.of(
        workspace,
        profile,
        adapter=registry.download(workspace, version),
        adapter_hash=policy.adapter_hash,
        game_set=game_set,
        data_hash=curated.stored(workspace.open(), game_set).sha256,
    )
    directory = workspace.scratch / "evaluate" / game_set / policy.model / policy.version
    with progress.bar(f"evaluate {policy.model}/{policy.version}") as bar:
        return EvaluatedRef(policy=policy, **json.loads(process.run(spec, directory, bar.update).read_text()))


@task(name="report evaluation", persist_result=False)
def report_evaluation(
    workspace: Workspace, game_set: str, round: int, evaluated: Sequence[EvaluatedRef]
) -> dict[str, Any]:
    """Report rates with 95% intervals over games in evaluation-<set>.json, MLflow and Prefect; return the contents."""
    summary = compare(curated.read(workspace.open(), game_set), evaluated)
    summary = {"game_set": game_set, "round": round, **summary}
    path = workspace.root / f"evaluation-{game_set}.json"
    write_whole(path, json.dumps(summary, indent=2) + "\n")
    name = f"evaluation on {game_set}"
    for run in registry.left_open(workspace, name):
        registry.end_run(workspace, str(run.info.run_id), "KILLED")
    run_id = registry.start_run(workspace, name, tags={"round": round, "game_set": game_set})
    rates = [(f"exact_match.{name}", values["exact_match"], round) for name, values in summary["policies"].items()]
    chances = [
        (f"chance.{name.replace(' ', '_')}", values["exact_match"], round) for name, values in summary["chance"].items()
    ]
    with registry.ended(workspace, run_id):
        registry.log(workspace, run_id, metrics=[*rates, *chances])
        registry.log_json(workspace, run_id, path.name, summary)
    rows = [{"listener": name, **values} for kind in ("policies", "chance") for name, values in summary[kind].items()]
    create_table_artifact(key="evaluation", table=rows, description=f"Exact match on {game_set}")
    return summary


def compare(logs: Sequence[InteractionLog], evaluated: Sequence[EvaluatedRef]) -> dict[str, Any]:
    """Compute each policy's exact match, its difference from the first policy's, and chance, on the same turns."""
    games = {log.interaction_id: (log, log.states()) for log in logs}
    scored = [(name, turn) for name, turn, _ in evaluated[0].turns]
    chances: dict[str, list[tuple[str, float]]] = {}
    for name, turn in scored:
        log, states = games[name]
        by_listener = judge(log.scenario).chance(log.turns[turn].action, states[turn], log.context)
        for listener, probability in by_listener.items():
            chances.setdefault(listener, []).append((name, probability))
    first = {(name, turn): right for name, turn, right in evaluated[0].turns}
    values: dict[str, dict[str, Any]] = {}
    for each in evaluated:
        difference = [(name, right - first[name, turn]) for name, turn, right in each.turns]
        values[each.policy.variant] = {
            **_written(_over_games([(name, float(right)) for name, _, right in each.turns])),
            "over_seed": _written(_over_games(difference)),
            "illegal_actions": each.illegal_actions,
            "version": f"{each.policy.model}/{each.policy.version}",
        }
    return {
        "games": len({name for name, _ in scored}),
        "turns": len(scored),
        "policies": values,
        "chance": {listener: _written(_over_games(points)) for listener, points in chances.items()},
    }


def show(summary: Mapping[str, Any], console: Console) -> None:
    """Show the comparison on the terminal."""
    title = f"Exact match on {summary['turns']:,} right turns of {summary['games']:,} games of {summary['game_set']}"
    table = Table("listener", "exact match", "over the seed policy", "illegal", title=title)
    for name, values in summary["policies"].items():
        difference = "" if name == SEED else _shown(values["over_seed"], "+.1%")
        table.add_row(name, _shown(values, ".1%"), difference, str(values["illegal_actions"]))
    table.add_section()
    for name, values in summary["chance"].items():
        table.add_row(f"chance: {name}", _shown(values, ".1%"), "", "")
    console.print(table)


def require_unseen(workspace: Workspace, version: str, game_set: str) -> None:
    """Raise if the version, or any ancestor whose weights it continues, learned from one of the games.

    Raises:
        ValueError: it learned from a game, which the message names.
        LineageError: what it learned from was not recorded.
    """
    store = workspace.open()
    games = _ids(store, game_set)
    for each in lineage.weights(store, version):
        if lineage.read(store, each) is None:
            keep_lineage(workspace, registry.named(workspace, each))
        if seen := games & lineage.games(store, each):
            who = version if each == version else f"{version} continues {each}, which"
            raise ValueError(
                f"{who} learned from {len(seen)} games of {game_set!r}, such as {min(seen)}: name another set, one "
                "that was kept aside when its games were imported, before the round"
            )


def require_not_chosen_on(workspace: Workspace, version: str, game_set: str) -> None:
    """Raise if one of the games was in the set that chose the version's checkpoint, or that of weights it continues.

    Versions without a tag of that set, or no longer registered, count as chosen on that of the default name.

    Raises:
        ValueError: one was, which the message names.
    """
    store = workspace.open()
    games = _ids(store, game_set)
    for each in lineage.weights(store, version):
        tags: Mapping[str, str] = {}
        with suppress(ValueError):
            tags = registry.named(workspace, each).tags
        validation = tags.get("validation", curated.VALIDATION)
        if curated.exists(store, validation) and (seen := games & _ids(store, validation)):
            raise ValueError(
                f"the checkpoint of {each} was chosen by {len(seen)} games of {game_set!r}, which are in "
                f"{validation!r} too, such as {min(seen)}: name a set of games that chose nothing"
            )


def _ids(store: Store, game_set: str) -> set[str]:
    return {log.interaction_id for log in curated.read(store, game_set)}


def _over_games(points: Sequence[tuple[str, float]]) -> Estimate:
    """Mean over turns, given as (game, value), with an interval that resamples games."""
    games = pd.DataFrame(points, columns=["game", "value"]).groupby("game", sort=False)["value"].agg(["sum", "count"])
    return ratio(games["sum"], games["count"])


def _written(estimate: Estimate) -> dict[str, Any]:
    value, low, high = astuple(estimate)
    return {"exact_match": value, "ci95": [low, high]}


def _shown(values: Mapping[str, Any], form: str) -> str:
    return f"{values['exact_match']:{form}} [{values['ci95'][0]:{form}}, {values['ci95'][1]:{form}}]"
