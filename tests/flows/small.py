"""The profiles with few steps and few games between people, for tests of whole flows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from respect_core.profiles import Profile
from respect_core.profiles import profile as named_profile


def small(name: str) -> Profile:
    """The named profile, small."""
    return _cut(named_profile(name), people=6, max_steps=4, checkpoint_every=2)


def smallest(name: str) -> Profile:
    """The named profile with as little training as makes a version, for tests of what is around it."""
    return _cut(named_profile(name), people=3, max_steps=2, checkpoint_every=2, batch_turns=8)


def _cut(profile: Profile, people: int, **short: int) -> Profile:
    changes: dict[str, Any] = {**short}
    seed_training = replace(profile.seed_training, **changes)
    cut = replace(profile, seed_games=people, validation_games=people, seed_training=seed_training)
    return cut.with_training(**changes)
