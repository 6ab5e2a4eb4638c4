"""Load what work with a policy needs: the base model that it was asked for, and the features of its images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from respect_core.interaction import Interaction
from respect_core.scenario import scenario
from tasks.compute.specs import PolicyWork, Work

if TYPE_CHECKING:  # torch takes seconds to import
    from respect_core.model.base import Base
    from respect_core.model.vision import VisionFeatures


def load_base_of(spec: PolicyWork) -> Base:
    """Return the base model, which must be the one that the specification was made with.

    Raises:
        ValueError: this machine has another base model of that name.
    """
    from respect_core.model.base import load_base

    base = load_base(spec.profile.base, scenario(spec.profile.scenario), image_size=spec.profile.image_size)
    if spec.base_sha256 and spec.base_sha256 != base.fingerprint:
        raise ValueError(
            f"the base model {spec.profile.base!r} has other files here ({base.fingerprint[:12]}) than where the work "
            f"was asked for ({spec.base_sha256[:12]}): install the same on all machines, and run the round again"
        )
    return base


def features_of(spec: Work, base: Base, image_ids: Iterable[str]) -> VisionFeatures:
    """Vision features of these images, kept in the workspace so that six variants compute them once."""
    from respect_core.model.vision import VisionFeatures
    from respect_core.store.images import load_images

    images = load_images(spec.workspace.open(), sorted(set(image_ids)))
    return VisionFeatures(base, images, cache_dir=spec.workspace.scratch / "vision")


def images_of(games: Iterable[Interaction]) -> Iterator[str]:
    return (image for game in games for image in game.context)
