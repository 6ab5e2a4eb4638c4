"""Make pictures and attributes to train the base on: shapes of their own seed, each in eight flips and quarter turns.

Legend: N shapes, V = 8 N views, A attribute values.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from respect_core.scenarios.multiref import attributes, tangrams
from respect_core.scenarios.multiref.dialects import VALUES
from respect_core.scenarios.multiref.tiny_build import skeleton


@dataclass(frozen=True)
class Pictures:
    """Pictures and their labels.

    pixels: [V, 48, 48] as the image processor returns them; labels: [V, A] of 1 (has), 0 (has another value of the
    attribute) or -1 (borderline).
    """

    pixels: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)


def labels(tangram: tangrams.Tangram) -> np.ndarray:
    """Compute the labels [A] of one tangram, as in `Pictures`."""
    values = attributes.values(tangram)
    return np.array([int(values[name] == value) if name in values else -1 for name, value in VALUES], dtype=np.int8)


def _views(image: np.ndarray) -> list[np.ndarray]:
    """Return eight views of a square image [H, W]: quarter turns of it and of its mirror image."""
    return [np.rot90(flipped, turns) for flipped in (image, image[:, ::-1]) for turns in range(4)]


def _tangram_views(tangram: tangrams.Tangram) -> list[tangrams.Tangram]:
    """Return the tangram in the eight views of `_views`. A quarter turn to the left takes (x, y) to (y, 1 - x)."""
    views = []
    for mirror in (False, True):
        polygons = tuple(tuple((1 - x if mirror else x, y) for x, y in polygon) for polygon in tangram.polygons)
        for _ in range(4):
            views.append(replace(tangram, polygons=polygons))
            polygons = tuple(tuple((y, 1 - x) for x, y in polygon) for polygon in polygons)
    return views


def processed(images: list[Image.Image]) -> np.ndarray:
    """Process images with the stock image processor: [n, PIXELS, PIXELS], one of three equal channels."""
    pixels = skeleton.processor().image_processor([[image] for image in images], return_tensors="np")["pixel_values"]
    return np.asarray(pixels)[:, 0, 0].astype(np.float32)


def make(n: int, seed: str) -> Pictures:
    """Make n shapes with the procedural generator, in eight views each."""
    rng = random.Random(f"base-{seed}")
    shapes = [tangrams.generate(f"base-{i}", rng) for i in range(n)]
    pixels = np.concatenate([processed([tangrams.render(s) for s in shapes[i : i + 500]]) for i in range(0, n, 500)])
    all_labels = np.stack([labels(view) for shape in shapes for view in _tangram_views(shape)])
    return Pictures(np.stack([view for image in pixels for view in _views(image)]), all_labels)


def cached(n: int, seed: str, folder: Path) -> Pictures:
    """Load what `make` returns from a file, made on first use."""
    file = folder / f"pictures-{seed}-{n}.npz"
    if not file.exists():
        pictures = make(n, seed)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(file, pixels=pictures.pixels, labels=pictures.labels)
    with np.load(file) as data:
        return Pictures(data["pixels"], data["labels"])
