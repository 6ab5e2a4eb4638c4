"""A short real training of the tiny model, for tests that end, move or divide it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from respect_core.model.local import base_sha256
from respect_core.profiles import Profile, tiny
from respect_core.training_data import curated
from respect_core.variants import SEED
from tasks.compute.specs import TrainSpec
from tasks.games.people import prepare_game_sets
from tasks.round.subsample import seed_training_set
from tasks.support.workspace import Workspace, workspace


def people(root: Path) -> Path:
    """A store with three games between simulated people, and three to validate on."""
    place = workspace(root)
    prepare_game_sets.fn(place, replace(tiny(), seed_games=3, validation_games=3), "validation")
    return place.root / "store"


def training(people: Path, root: Path, steps: int, checkpoint_every: int) -> TrainSpec:
    """A seed policy's training on these games."""
    shutil.copytree(people, root / "store")
    place = workspace(root)
    short = replace(tiny().seed_training, max_steps=steps, checkpoint_every=checkpoint_every, batch_turns=8)
    profile = replace(tiny(), seed_training=short)
    return training_of(place, profile, root / "work")


def training_of(place: Workspace, profile: Profile, directory: Path) -> TrainSpec:
    """The training of a profile's seed policy on the game sets in the store."""
    training_set = seed_training_set.fn(place, profile)
    return TrainSpec(
        workspace=place,
        profile=profile,
        code_version="test",
        base_sha256=base_sha256(profile.base),
        variant=SEED,
        round=0,
        data_hash=training_set.data_hash,
        training=profile.seed_training,
        seed=0,
        validation="validation",
        validation_sha256=curated.stored(place.open(), "validation").sha256,
        adapter=None,
        directory=directory,
    )
