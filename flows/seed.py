"""The seed policy of round 0 (appendix B.2): fine-tuned on D0, human-human games on the development split."""

from __future__ import annotations

from prefect import flow

from flows.dispatch.stages import train_on_pool
from flows.support.threads import threads
from respect_core.profiles import Profile
from respect_core.variants import SEED
from tasks.compute.places import Place
from tasks.games.people import prepare_game_sets
from tasks.registry.register import find_seed, register_seed
from tasks.round.select import select_checkpoint
from tasks.round.subsample import seed_training_set
from tasks.round.train import train_variant
from tasks.support import progress
from tasks.support.files import alone
from tasks.support.references import RegisteredRef, TrainingSetRef
from tasks.support.workspace import Workspace


@flow(name="seed", flow_run_name="seed policy {profile.name}", task_runner=threads())
def seed_policy(workspace: Workspace, profile: Profile, validation: str, on: Place = Place.HERE) -> RegisteredRef:
    """Return the registered seed policy, training it if there is none of the same data and settings.

    If another process is already training it, as `respect play` does on a clean clone, wait for that one.
    """
    prepare_game_sets(workspace, profile, validation)
    training_set = seed_training_set(workspace, profile)
    if on is Place.POOLS:
        found = find_seed(workspace, profile, training_set, validation)
        return found or train_on_pool(workspace, profile, training_set, validation, None).registered
    with progress.bar("seed policy"), alone(workspace.scratch / "seed.lock"):
        found = find_seed(workspace, profile, training_set, validation)
        return found or _train(workspace, profile, training_set, validation, on)


def _train(
    workspace: Workspace, profile: Profile, training_set: TrainingSetRef, validation: str, on: Place
) -> RegisteredRef:
    trained = [
        train_variant.submit(workspace, profile, training_set, seed, validation, None, on) for seed in profile.seeds
    ]
    selected = select_checkpoint(SEED, [future.result() for future in trained])
    return register_seed(workspace, profile, training_set, selected, validation)
