"""Train one variant with one seed, in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

from prefect import task

from respect_core.profiles import Profile
from respect_core.training_data import curated
from respect_core.variants import SEED, Variant
from tasks.compute import culprits
from tasks.compute.places import Place, runner
from tasks.compute.specs import TrainSpec
from tasks.registry import registry
from tasks.support import progress
from tasks.support.references import TrainedRef, TrainingSetRef
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace


@task(name="initial adapter", task_run_name="initial adapter {variant}", **PATIENT)
def initial_adapter(workspace: Workspace, profile: Profile, variant: Variant, round: int) -> Path | None:
    """Return the previous round's adapter or the seed's, if the profile continues from it; else None."""
    if not profile.settings(variant, round).from_previous_adapter:
        return None
    version = registry.previous(workspace, variant, round)
    if version is None:
        raise ValueError(f"{variant} continues from an adapter, but neither it nor {SEED} is registered")
    return registry.download(workspace, version)


@task(name="train", task_run_name="train {training_set.variant} seed {seed}", **PATIENT)
def train_variant(
    workspace: Workspace,
    profile: Profile,
    training_set: TrainingSetRef,
    seed: int,
    validation: str,
    start: Path | None,
    on: Place = Place.HERE,
    within: str = "",
) -> TrainedRef:
    """Train on the training set, keeping a checkpoint and its validation figure at every interval.

    If the worker is killed, training resumes from the last resume point, in the next try or the next run of the round.

    Args:
        within: folder in the variant's scratch space for this training alone; the variant's own folder if empty.

    Raises:
        ValueError: there is no such game set to validate on.
        WorkerFailedError: training ended with an error; the message has the end of its log.
    """
    variant = training_set.variant
    directory = workspace.scratch / f"round={training_set.round}" / variant / within / f"seed={seed}"
    spec = TrainSpec.of(
        workspace,
        profile,
        variant=variant,
        round=training_set.round,
        data_hash=training_set.data_hash,
        training=profile.settings(variant, training_set.round),
        seed=seed,
        validation=validation,
        validation_sha256=curated.stored(workspace.open(), validation).sha256,
        without=culprits.known(workspace.open(), training_set.round, variant),
        adapter=start,
        directory=directory,
    )
    with progress.bar(f"train {variant} seed {seed}") as bar:
        result = json.loads(culprits.run(runner(on), spec, directory, bar.update, spread=True).read_text())
    return TrainedRef(variant=variant, seed=seed, directory=directory, seconds=result["seconds"])
