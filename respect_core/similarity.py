from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

ImageSimilarity = Callable[[str, str], float]


def similarity(action: str, intended: str, context: Sequence[str], f: ImageSimilarity) -> float:
    raise NotImplementedError


def from_vectors(vectors: Mapping[str, np.ndarray]) -> ImageSimilarity:
    raise NotImplementedError


def from_table(path: Path) -> ImageSimilarity:
    raise NotImplementedError


def from_features(features: VisionFeatures, images: Sequence[str]) -> ImageSimilarity:  # noqa: F821
    raise NotImplementedError
