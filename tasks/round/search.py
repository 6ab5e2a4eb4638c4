"""Record a search over training settings: its runs in MLflow, and its points' figures. Nothing is registered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

from prefect import task
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from respect_core.model.local import base_sha256
from respect_core.profiles import Profile
from respect_core.training_data import curated
from respect_core.versions import json_hash
from tasks.registry import registry
from tasks.registry.register import log_training, recipe
from tasks.support.files import write_whole
from tasks.support.references import SearchedRef, SelectedRef, TrainingSetRef
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace

_SEARCH, _POINT = "search", "recipe"
"""Tags: a search's run has a hash of what all its points share; a point's run has what it was made from."""


@task(name="open search", **PATIENT)
def open_search(
    workspace: Workspace, profile: Profile, training_set: TrainingSetRef, grid: str, validation: str
) -> str:
    """Open the search's run in MLflow, either the interrupted one or a new one; return its id."""
    variant, round = training_set.variant, training_set.round
    common = {
        "grid": grid,
        "variant": variant,
        "round": round,
        "profile": TypeAdapter(Profile).dump_python(profile, mode="json"),
        "base": base_sha256(profile.base),
        "data": training_set.data_hash,
        "validation": curated.stored(workspace.open(), validation).sha256,
    }
    key = json_hash(common)[:32]
    found = registry.client(workspace).search_runs([registry.experiment_id(workspace)], f"tags.{_SEARCH} = '{key}'")
    if found:
        run_id = str(found[0].info.run_id)
        registry.end_killed_below(workspace, run_id)
        registry.reopen(workspace, run_id)
        return run_id
    tags = {_SEARCH: key, "round": round, "variant": variant, "profile": profile.name}
    run_id = registry.start_run(workspace, f"search {grid} {variant} round {round}", tags=tags)
    registry.log(workspace, run_id, params={"grid": grid, "variant": variant, "round": round, "profile": profile.name})
    return run_id


def finished_points(workspace: Workspace, search_run: str) -> dict[str, SearchedRef]:
    """Return the finished points of a search, by recipe."""
    wanted = f"tags.`mlflow.parentRunId` = '{search_run}' and attributes.status = 'FINISHED'"
    runs = registry.client(workspace).search_runs([registry.experiment_id(workspace)], wanted, max_results=50_000)
    return {
        run.data.tags[_POINT]: SearchedRef(
            name=str(run.info.run_name),
            sampled_match=run.data.metrics["val_sampled_match"],
            exact_match=run.data.metrics["val_exact_match"],
            illegal_actions=int(run.data.metrics["illegal_actions"]),
            validation_turns=int(run.data.metrics["validation_turns"]),
            seconds=run.data.metrics["train_seconds"],
            run_id=str(run.info.run_id),
        )
        for run in runs
    }


@task(name="record point", task_run_name="record {name}", **PATIENT)
def record_point(
    workspace: Workspace,
    search_run: str,
    profile: Profile,
    training_set: TrainingSetRef,
    name: str,
    selected: SelectedRef,
) -> SearchedRef:
    """Record a point's run below the search's: settings, curves of its seeds, and its best checkpoint's figures."""
    tags = {_POINT: recipe(profile, training_set), "seed": selected.seed, "step": selected.step}
    run_id = registry.start_run(workspace, name, search_run, tags)
    log_training(workspace, run_id, profile, training_set, selected)
    registry.log(workspace, run_id, metrics=[("validation_turns", selected.validation_turns, training_set.round)])
    registry.end_run(workspace, run_id)
    return SearchedRef(
        name=name,
        sampled_match=selected.sampled_match,
        exact_match=selected.exact_match,
        illegal_actions=selected.illegal_actions,
        validation_turns=selected.validation_turns,
        seconds=selected.seconds,
        run_id=run_id,
    )


@task(name="report search", **PATIENT)
def report_search(
    workspace: Workspace,
    search_run: str,
    parameters: Mapping[str, Any],
    points: Sequence[SearchedRef],
    failed: Mapping[str, str],
) -> dict[str, Any]:
    """Write the points, the best first, to search-GRID-VARIANT-ROUND.json and MLflow; end the search's run.

    They are ranked as checkpoints are (`validation.choose`).
    """
    ranked = sorted(points, key=lambda point: (-point.sampled_match, -point.exact_match))
    summary = {**parameters, "points": [point.model_dump() for point in ranked], "failed": dict(failed)}
    file = results_file(workspace, parameters)
    write_whole(file, json.dumps(summary, indent=2) + "\n")
    registry.client(workspace).log_artifact(search_run, str(file))
    if ranked:
        best = ranked[0]
        metrics = [
            ("val_sampled_match", best.sampled_match, 0),
            ("val_exact_match", best.exact_match, 0),
            ("illegal_actions", best.illegal_actions, 0),
        ]
        registry.log(workspace, search_run, metrics=metrics, tags={"best": best.name})
    registry.end_run(workspace, search_run, "FAILED" if failed else "FINISHED")
    return summary


def results_file(workspace: Workspace, parameters: Mapping[str, Any]) -> Path:
    return workspace.root / "search-{grid}-{variant}-{round}.json".format(**parameters)


def show(summary: Mapping[str, Any], console: Console) -> None:
    """Show the points on the terminal, the best first."""
    table = Table(
        *("changed", "sampled match", "exact match", "illegal", "seconds"),
        title=f"{summary['variant']}, round {summary['round']}: the grid {summary['grid']} on the validation set",
    )
    for point in summary["points"]:
        matches = [f"{point[each]:.3f}" for each in ("sampled_match", "exact_match")]
        table.add_row(point["name"], *matches, str(point["illegal_actions"]), f"{point['seconds']:.0f}")
    for name, reason in summary["failed"].items():
        table.add_row(name, "failed", "", "", reason.splitlines()[-1][:60])
    console.print(table)
    if summary["points"]:
        best = summary["points"][0]
        error = sqrt(best["exact_match"] * (1 - best["exact_match"]) / best["validation_turns"])
        console.print(
            f"{best['validation_turns']} validation turns: one standard error of exact match is about {error:.3f}",
            highlight=False,
        )
