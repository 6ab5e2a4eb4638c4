"""A search over training settings (Table 1), as a Prefect flow: one variant of one round, and nothing registered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow

from flows.dispatch.stages import decode
from flows.parameters import SearchParameters
from flows.seed import seed_policy
from flows.support.locks import in_turn
from flows.support.tags import label_run
from flows.support.threads import threads
from respect_core.learning import grids
from respect_core.profiles import Profile
from tasks.compute.places import Place, require
from tasks.registry import registry
from tasks.registry.register import recipe
from tasks.round.export import export_interactions
from tasks.round.search import finished_points, open_search, record_point, report_search
from tasks.round.select import select_checkpoint
from tasks.round.subsample import subsample_variant
from tasks.round.train import initial_adapter, train_variant
from tasks.support import progress
from tasks.support.references import SearchedRef, TrainingSetRef
from tasks.support.workspace import Workspace


@flow(name="search", flow_run_name="search {parameters.grid}, round {parameters.round}", task_runner=threads())
def search(workspace: Workspace, parameters: SearchParameters, on: Place = Place.HERE) -> dict[str, Any]:
    """Train and validate a variant with each configuration of a grid; return the configurations, the best first.

    Finished points are not tried again. A point that fails does not stop the others.

    Raises:
        ValueError: no such grid, or no games in the round.
        RayMissingError: the search is to run on Ray, which is not installed.
    """
    require(on)
    label_run(f"round:{parameters.round}", f"variant:{parameters.variants[0]}")
    with in_turn(workspace):
        return _search(workspace, parameters, on)


def _search(workspace: Workspace, parameters: SearchParameters, on: Place) -> dict[str, Any]:
    """Do what `search` does, once it is its turn."""
    (variant,), number, validation = parameters.variants, parameters.round, parameters.validation
    profile = parameters.resolved_profile()
    own = profile.settings(variant, number)
    points = {grids.label(own, point): point for point in grids.points(parameters.grid, own, parameters.limit)}
    profiles = {
        name: profile.with_training([variant.objective], **grids.changes(own, point)) for name, point in points.items()
    }
    seed = seed_policy(workspace, profile, validation, on)
    export_interactions(workspace, number)
    decoded = decode(workspace, profile, number, [variant], seed, on=on)
    training_set = subsample_variant(workspace, profile, variant, number, validation, decoded.propensities)
    start = initial_adapter(workspace, profile, variant, number)
    run_id = open_search(workspace, profile, training_set, parameters.grid, validation)
    try:
        recipes = {name: recipe(each, training_set) for name, each in profiles.items()}
        known = finished_points(workspace, run_id)
        found = [known[each] for each in recipes.values() if each in known]
        failed: dict[str, str] = {}
        trying = {
            name: _submit(workspace, run_id, each, training_set, name, validation, start, on)
            for name, each in profiles.items()
            if recipes[name] not in known
        }
        with progress.bar("search", len(points)) as bar:
            for name, end in trying.items():
                bar.update(len(found) + len(failed), note=name)
                try:
                    found.append(end())
                except Exception as error:  # a point that fails must not take the others down
                    failed[name] = str(error)
    except BaseException as error:
        registry.end_run(workspace, run_id, registry.status_after(error))
        raise
    return report_search(workspace, run_id, parameters.named(), found, failed)


def _submit(
    workspace: Workspace,
    run_id: str,
    profile: Profile,
    training_set: TrainingSetRef,
    name: str,
    validation: str,
    start: Path | None,
    on: Place,
) -> Callable[[], SearchedRef]:
    """Start training a point with each seed; return a function that waits for the end, and raises a failure."""
    within = f"search/{recipe(profile, training_set)[:16]}"
    seeds = [
        train_variant.submit(workspace, profile, training_set, seed, validation, start, on, within)
        for seed in profile.seeds
    ]
    selected = select_checkpoint.submit(training_set.variant, seeds)  # type: ignore[arg-type]  # Prefect resolves futures
    recorded = record_point.submit(workspace, run_id, profile, training_set, name, selected)  # type: ignore[call-overload]  # the same

    def end() -> SearchedRef:
        for training in seeds:
            training.result()  # a failed training says why; the tasks that wait for it do not know
        done: SearchedRef = recorded.result()
        return done

    return end
