"""Compute geometric attributes of a tangram, and hold the words for their values.

An attribute has two or three values, and none for a borderline shape. A value has `technical` words (adjectives, which
the base model knows well) and `figurative` words (what the shape is compared to, which the base model knows only
vaguely). How often users speak figuratively is part of their dialect, which the policy has to learn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from respect_core.errors import extra
from respect_core.scenarios.multiref.tangrams import Tangram

with extra("game"):
    import shapely


@dataclass(frozen=True)
class Words:
    """The words for one value of one attribute."""

    technical: tuple[str, ...]
    figurative: tuple[str, ...]


def _words(technical: str, figurative: str) -> Words:
    return Words(tuple(technical.split()), tuple(figurative.split()))


# attribute -> value -> words. Every word means one value only.
LEXICON: dict[str, dict[str, Words]] = {
    "outline": {
        "wide": _words("wide broad", "boat crocodile bridge"),
        "tall": _words("tall narrow", "tower giraffe candle"),
        "even": _words("compact stocky", "turtle frog loaf"),
    },
    "top": {
        "pointed": _words("pointy-topped peaked", "steeple witch unicorn"),
        "flat": _words("flat-topped level", "anvil castle altar"),
    },
    "bottom": {
        "pointed": _words("pointy-bottomed tapering", "dancer carrot icicle"),
        "flat": _words("flat-bottomed grounded", "house statue teapot"),
    },
    "left": {
        "pointed": _words("left-pointed left-sharp", "arrow swordfish needle"),
        "flat": _words("left-flat left-blunt", "truck piano bookcase"),
    },
    "right": {
        "pointed": _words("right-pointed right-sharp", "rocket woodpecker dagger"),
        "flat": _words("right-flat right-blunt", "hammer wagon oven"),
    },
    "weight": {
        "high": _words("top-heavy upper-heavy", "mushroom tree ostrich"),
        "low": _words("bottom-heavy lower-heavy", "bell pear penguin"),
    },
    "side": {
        "left": _words("left-heavy left-leaning", "snail whale camel"),
        "right": _words("right-heavy right-leaning", "rooster kangaroo squirrel"),
    },
    "upper left": {
        "filled": _words("upper-left-filled northwest-filled", "robot soldier chimney"),
        "empty": _words("upper-left-empty northwest-empty", "kite lantern jewel"),
    },
    "upper right": {
        "filled": _words("upper-right-filled northeast-filled", "monk nurse pharaoh"),
        "empty": _words("upper-right-empty northeast-empty", "skater sled trolley"),
    },
    "lower left": {
        "filled": _words("lower-left-filled southwest-filled", "goose teacher pelican"),
        "empty": _words("lower-left-empty southwest-empty", "dog fisherman tractor"),
    },
    "lower right": {
        "filled": _words("lower-right-filled southeast-filled", "flag feather rabbit"),
        "empty": _words("lower-right-empty southeast-empty", "slipper skirt mermaid"),
    },
    "middle": {
        "filled": _words("middle-filled thick-waisted", "barrel whirlpool beetle"),
        "empty": _words("middle-empty thin-waisted", "butterfly hourglass bow"),
    },
    "mass": {
        "solid": _words("solid chunky", "rock bear mountain"),
        "loose": _words("sprawling branching", "spider antler crab"),
    },
    "lean": {
        "rising": _words("rising uphill", "runner plane swimmer"),
        "falling": _words("falling downhill", "slide waterfall diver"),
    },
}

Values = Mapping[str, str]  # attribute -> value; borderline attributes are left out

_END = 0.12  # depth of an end, as a share of the extent
_ASPECT = 1.25
_HEAVY = 0.03
# Corners and middle, as columns and rows of a 3 x 3 grid over the bounding box.
_BOXES = (("upper left", 0, 0), ("upper right", 2, 0), ("lower left", 0, 2), ("lower right", 2, 2), ("middle", 1, 1))
_COVERED = {"middle": (0.86, 0.1)}  # share that separates empty from filled, and the distance from it that decides
_CORNER_COVERED = (0.28, 0.15)


def _end(points: np.ndarray, edges: np.ndarray, axis: int, sign: int) -> str | None:
    """Return whether the end in direction `sign` along `axis` is pointed or flat. edges: [n, 2 ends, 2 coordinates]."""
    along, across = points[:, axis] * sign, 1 - axis
    end, extent = along.max(), along.max() - along.min()
    breadth = np.ptp(points[:, across])
    at_end = edges[(edges[:, :, axis] * sign > end - 1e-6).all(axis=1)]
    if len(at_end):
        return "flat" if np.ptp(at_end[:, :, across]) > 0.2 * breadth else None
    near = points[along > end - _END * extent]
    return "pointed" if np.ptp(near[:, across]) < 0.05 else None


def _off_middle(offset: float, limit: float, low: str, high: str) -> str | None:
    return high if offset > limit else low if offset < -limit else None


@lru_cache(maxsize=20_000)
def values(tangram: Tangram) -> Values:
    """Compute the attributes of a tangram that are not borderline, from its polygons (y down)."""
    outlines = [np.array(polygon) for polygon in tangram.polygons]
    shapes = [shapely.polygons(outline) for outline in outlines]
    areas = np.array([shape.area for shape in shapes])
    centres = np.array([[shape.centroid.x, shape.centroid.y] for shape in shapes])
    points = np.concatenate(outlines)
    edges = np.concatenate([np.stack([outline, np.roll(outline, -1, axis=0)], axis=1) for outline in outlines])
    low, high = points.min(axis=0), points.max(axis=0)
    extent = high - low
    places = (centres - (low + high) / 2) / extent  # from -.5 to .5 of the bounding box
    weight_x, weight_y = areas @ places / areas.sum()
    values_by_name: dict[str, str | None] = {}

    aspect = extent[0] / extent[1]
    if aspect > _ASPECT or aspect < 1 / _ASPECT:
        values_by_name["outline"] = "wide" if aspect > 1 else "tall"
    elif max(aspect, 1 / aspect) < 1.12:
        values_by_name["outline"] = "even"
    for name, axis, sign in (("top", 1, -1), ("bottom", 1, 1), ("left", 0, -1), ("right", 0, 1)):
        values_by_name[name] = _end(points, edges, axis, sign)
    values_by_name["weight"] = _off_middle(weight_y, _HEAVY, "high", "low")
    values_by_name["side"] = _off_middle(weight_x, _HEAVY, "left", "right")

    whole = shapely.union_all([shapely.buffer(shape, 1e-4) for shape in shapes])
    for name, column, row in _BOXES:
        box = shapely.box(*(low + extent * (column, row) / 3), *(low + extent * (column + 1, row + 1) / 3))
        covered = shapely.area(shapely.intersection(whole, box)) / box.area
        usual, limit = _COVERED.get(name, _CORNER_COVERED)
        values_by_name[name] = _off_middle(covered - usual, limit, "empty", "filled")

    hull = shapely.convex_hull(shapely.multipoints(points)).area
    filled = areas.sum() / hull
    values_by_name["mass"] = "solid" if filled > 0.7 else "loose" if filled < 0.62 else None

    around = centres - areas @ centres / areas.sum()
    spread = (areas[:, None] * around).T @ around
    variance_x, variance_y, covariance = spread[0, 0], spread[1, 1], spread[0, 1]
    correlation = covariance / math.sqrt(variance_x * variance_y)
    values_by_name["lean"] = _off_middle(correlation, 0.4, "rising", "falling")  # y points down
    return {name: value for name, value in values_by_name.items() if value is not None}


def meaning(word: str) -> tuple[str, str] | None:
    """Return the attribute and value a word commonly means; None for any other word."""
    return _MEANINGS.get(word)


_MEANINGS = {
    word: (attribute, value)
    for attribute, by_value in LEXICON.items()
    for value, words in by_value.items()
    for word in words.technical + words.figurative
}
