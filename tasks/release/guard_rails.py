"""Guard rails of registered policies of free text, against the seed policy on the same held-out prompts."""

from __future__ import annotations

import json

from mlflow.entities.model_registry import ModelVersion
from prefect import task

from respect_core.measuring import guard_rails
from respect_core.measuring.guard_rails import Figures
from respect_core.profiles import Profile
from respect_core.scenario import scenario
from respect_core.training_data import curated
from tasks.compute import process
from tasks.compute.specs import GuardSpec
from tasks.registry import deployed, registry
from tasks.support import progress
from tasks.support.files import alone
from tasks.support.references import LearnedRef
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace


@task(name="guard rails of the seed policy", **PATIENT)
def seed_rails(workspace: Workspace, profile: Profile, game_set: str) -> Figures:
    """Measure the seed policy, which all others are compared with."""
    return measured(workspace, profile, deployed.seed_policy(workspace), game_set)


@task(name="guard rails", task_run_name="guard rails {learned.registered.variant}", **PATIENT)
def with_rails(workspace: Workspace, profile: Profile, learned: LearnedRef, game_set: str, seed: Figures) -> LearnedRef:
    """Add a version's figures to what was learned, and to its run in MLflow as guard.NAME."""
    version = registry.named(workspace, f"{learned.registered.model}/{learned.registered.version}")
    figures = guard_rails.compare(measured(workspace, profile, version, game_set), seed)
    metrics = [(f"guard.{name}", value, learned.training_set.round) for name, value in figures.items()]
    registry.log(workspace, learned.registered.run_id, metrics=metrics)
    return learned.model_copy(update={"guard_rails": figures})


def measured(workspace: Workspace, profile: Profile, version: ModelVersion, game_set: str) -> Figures:
    """Measure one policy in a process of its own; what was measured before on this machine is not measured again."""
    seed = deployed.seed_policy(workspace)
    is_seed = (version.name, version.version) == (seed.name, seed.version)
    spec = GuardSpec.of(
        workspace,
        profile,
        adapter=registry.download(workspace, version),
        adapter_hash=version.tags["adapter_hash"],
        seed_adapter=None if is_seed else registry.download(workspace, seed),
        seed_hash=None if is_seed else seed.tags["adapter_hash"],
        game_set=game_set,
        data_hash=curated.stored(workspace.open(), game_set).sha256,
        prompts=guard_rails.PROMPTS,
        max_new_tokens=min(guard_rails.TOKENS, scenario(profile.scenario).max_new_tokens),
    )
    directory = workspace.scratch / "guard" / game_set / version.name / str(version.version)
    with progress.bar(f"guard rails {version.name}/{version.version}") as bar, alone(directory.with_suffix(".lock")):
        figures: Figures = json.loads(process.run(spec, directory, bar.update).read_text())["figures"]
    return figures
