"""Generate and draw tangrams: seven tans as polygons, from a seeded generator.

The generator's unit of length is the leg of the small triangle (area of all seven tans: 8). A finished `Tangram` is in
its picture's frame: x to the right and y down, both from 0 to 1, the same for every source of shapes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from respect_core.errors import extra

with extra("game"):
    import shapely

Point = tuple[float, float]
Polygon = tuple[Point, ...]

_R2 = math.sqrt(2.0)

# Names of the tans, in the order of every Tangram's polygons.
TANS = ("square", "parallelogram", "small", "small", "medium", "large", "large")
SQUARE, PARALLELOGRAM, LARGE = 0, 1, (5, 6)

_OUTLINES: dict[str, Polygon] = {
    "square": ((0, 0), (1, 0), (1, 1), (0, 1)),
    "parallelogram": ((0, 0), (1, 0), (2, 1), (1, 1)),
    "small": ((0, 0), (1, 0), (0, 1)),
    "medium": ((0, 0), (_R2, 0), (0, _R2)),
    "large": ((0, 0), (2, 0), (0, 2)),
}

MARGIN = 0.03  # of the picture's side, around the bounding box
PROCEDURAL_DEVELOPMENT, PROCEDURAL_MAIN = 101, 912  # sizes of the study's splits (appendix A.1)


@dataclass(frozen=True)
class Tangram:
    """Seven polygons in the order of `TANS`, in the picture's coordinates (0 to 1, y down)."""

    id: str
    polygons: tuple[Polygon, ...]


@dataclass(frozen=True)
class Pool:
    """A pool of tangrams by id, and the two splits of their ids."""

    tangrams: dict[str, Tangram]
    development: tuple[str, ...]
    main: tuple[str, ...]


# --- generator --------------------------------------------------------------------------------------------------


def _rotate(points: np.ndarray, eighths: int) -> np.ndarray:
    """Rotate points [n, 2] about the origin by a multiple of 45 degrees."""
    angle = eighths * math.pi / 4
    cos, sin = math.cos(angle), math.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def _attach(outline: np.ndarray, placed: Sequence[np.ndarray], rng: random.Random) -> np.ndarray:
    """Move the outline so that one of its edges touches an edge of a placed tan, sharing an end."""
    host = placed[rng.randrange(len(placed))]
    i, j = rng.randrange(len(host)), rng.randrange(len(outline))
    a, b = host[i], host[(i + 1) % len(host)]
    c, d = outline[j], outline[(j + 1) % len(outline)]
    # Both outlines have the same orientation, so touching edges run in opposite directions.
    turn = math.atan2(*(a - b)[::-1]) - math.atan2(*(d - c)[::-1])
    moved = _rotate(outline, round(turn / (math.pi / 4)))
    return moved + (b - moved[j] if rng.random() < 0.5 else a - moved[(j + 1) % len(outline)])


def _assemble(rng: random.Random) -> list[np.ndarray] | None:
    """Assemble seven outlines in the order of TANS, touching along edges without overlap; None if it got stuck."""
    order = rng.sample(range(len(TANS)), len(TANS))
    placed: dict[int, np.ndarray] = {}
    shapes: list[shapely.Geometry] = []
    for tan in order:
        outline = np.array(_OUTLINES[TANS[tan]], dtype=float)
        if TANS[tan] == "parallelogram" and rng.random() < 0.5:
            outline = (outline * [1, -1])[::-1]  # the only tan whose mirror image differs
        if not placed:
            placed[tan] = _rotate(outline, rng.randrange(8))
            shapes.append(shapely.polygons(placed[tan]))
            continue
        for _ in range(40):
            moved = _attach(outline, list(placed.values()), rng)
            shape = shapely.polygons(moved)
            if shapely.area(shapely.intersection(shape, np.array(shapes))).max() < 1e-6:
                placed[tan] = moved
                shapes.append(shape)
                break
        else:
            return None
    return [placed[tan] for tan in range(len(TANS))]


def framed(tangram_id: str, outlines: Sequence[np.ndarray], margin: float = MARGIN) -> Tangram:
    """Make a Tangram from outlines in any unit, y down: scaled to fill the picture's frame, centred."""
    points = np.concatenate(list(outlines))
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (1 - 2 * margin) / (high - low).max()
    offset = 0.5 - scale * (low + high) / 2
    return Tangram(
        tangram_id, tuple(tuple((float(x), float(y)) for x, y in outline * scale + offset) for outline in outlines)
    )


def generate(tangram_id: str, rng: random.Random, *, max_side: float = 5.6) -> Tangram:
    """Generate a random tangram, redrawing shapes that sprawl over more than `max_side` legs."""
    while True:
        outlines = _assemble(rng)
        if outlines is None:
            continue
        points = np.concatenate(outlines)
        if (points.max(axis=0) - points.min(axis=0)).max() <= max_side:
            return framed(tangram_id, outlines)


@lru_cache(maxsize=4)
def procedural_pool(seed: int = 0) -> Pool:
    """Generate 1,013 tangrams `tan-0000` to `tan-1012`, split at random into 101 for development and 912 (main)."""
    rng = random.Random(f"tangrams-{seed}")
    n = PROCEDURAL_DEVELOPMENT + PROCEDURAL_MAIN
    tangrams = {tangram.id: tangram for tangram in (generate(f"tan-{i:04d}", rng) for i in range(n))}
    ids = rng.sample(sorted(tangrams), n)
    return Pool(tangrams, tuple(sorted(ids[:PROCEDURAL_DEVELOPMENT])), tuple(sorted(ids[PROCEDURAL_DEVELOPMENT:])))


# --- drawing ----------------------------------------------------------------------------------------------------

_OVERSAMPLE = 4


def render(tangram: Tangram, size: int = 224) -> Image.Image:
    """Render the tangram in black on white with thin white seams, `size` x `size` pixels, RGB."""
    side = size * _OVERSAMPLE
    picture = Image.new("L", (side, side), 255)
    draw = ImageDraw.Draw(picture)
    seam = max(1, round(2 * side / 224))  # two of the study's 224 pixels
    outlines = [[(x * side, y * side) for x, y in polygon] for polygon in tangram.polygons]
    for outline in outlines:
        draw.polygon(outline, fill=0)
        draw.line([*outline, outline[0]], fill=255, width=seam)
    return picture.resize((size, size), Image.Resampling.BOX).convert("RGB")
