"""The profiles with few steps and few games between people, for tests of whole flows."""

from __future__ import annotations

from dataclasses import replace

from respect_core.variants import Profile
from respect_core.variants import profile as named_profile


def small(name: str) -> Profile:
    """The named profile, small."""
    profile = named_profile(name)
    short = {"max_steps": 4, "checkpoint_every": 2}
    return replace(
        profile,
        seed_games=6,
        validation_games=6,
        seed_training=replace(profile.seed_training, **short),
        training={objective: replace(config, **short) for objective, config in profile.training.items()},
    )
