"""Draw game contexts: ten tangrams, three to five of them targets, in different orders for speaker and listener."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from respect_core.scenarios.multiref.actions import LETTERS

IMAGES = len(LETTERS)
TARGETS = (3, 4, 5)


@dataclass(frozen=True)
class GameContext:
    """A game before it starts (appendix A.1). Image ids; only the speaker may know `targets`."""

    id: str
    images: tuple[str, ...]  # the listener's order, letters A to J
    speaker_order: tuple[str, ...]
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.images)) != len(self.images) or sorted(self.images) != sorted(self.speaker_order):
            raise ValueError(f"context {self.id}: both orders must hold the same images, each once")
        if not set(self.targets) <= set(self.images):
            raise ValueError(f"context {self.id}: targets {self.targets} are not all among its images")

    @property
    def target_letters(self) -> str:
        """The targets' letters in the listener's order, sorted."""
        return "".join(letter for letter, image in zip(LETTERS, self.images, strict=False) if image in self.targets)


def sample(
    split: Sequence[str], n: int, seed: int | str, *, prefix: str = "game", stratified: bool = False
) -> list[GameContext]:
    """Draw n contexts at random from a split's image ids.

    The same arguments give the same contexts, and a larger n only adds to them.

    Args:
        stratified: balance the number of targets over contexts, to within one; otherwise it is random. Games with
            more targets are harder, so balanced samples differ less in success rate.
    """
    if len(split) < IMAGES:
        raise ValueError(f"a context needs {IMAGES} images, the split has {len(split)}")
    ids = sorted(split)
    order = random.Random(f"targets-{seed}").sample(TARGETS, len(TARGETS))
    contexts = []
    for number in range(n):
        rng = random.Random(f"context-{seed}-{number}")
        images = rng.sample(ids, IMAGES)
        speaker_order = rng.sample(images, IMAGES)
        while speaker_order == images:
            speaker_order = rng.sample(images, IMAGES)
        targets = rng.sample(images, order[number % len(order)] if stratified else rng.choice(TARGETS))
        contexts.append(
            GameContext(f"{prefix}-{seed}-{number:04d}", tuple(images), tuple(speaker_order), tuple(sorted(targets)))
        )
    return contexts
