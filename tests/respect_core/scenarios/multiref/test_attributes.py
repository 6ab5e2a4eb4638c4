"""Attributes: right on shapes made for it, mirrored with the shape, each word with one meaning."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from respect_core.scenarios.multiref import attributes, tangrams
from respect_core.scenarios.multiref.tangrams import Tangram

MIRRORED = {"left": "right", "right": "left", "upper left": "upper right", "upper right": "upper left",
            "lower left": "lower right", "lower right": "lower left"}  # fmt: skip
FLIPPED_VALUES = {"side": {"left": "right", "right": "left"}, "lean": {"rising": "falling", "falling": "rising"}}


def mirror(tangram: Tangram) -> Tangram:
    return replace(tangram, polygons=tuple(tuple((1 - x, y) for x, y in polygon) for polygon in tangram.polygons))


@settings(max_examples=25)
@given(st.integers(0, 10**9))
def test_a_mirror_image_swaps_left_and_right(seed: int) -> None:
    tangram = tangrams.generate("x", random.Random(seed))
    expected = {
        MIRRORED.get(name, name): FLIPPED_VALUES.get(name, {}).get(value, value)
        for name, value in attributes.values(tangram).items()
    }
    assert attributes.values(mirror(tangram)) == expected


@pytest.mark.heavy
def test_values_are_those_of_the_lexicon() -> None:
    for tangram in list(tangrams.procedural_pool(0).tangrams.values())[:200]:
        for name, value in attributes.values(tangram).items():
            assert value in attributes.LEXICON[name]


def test_every_word_has_one_meaning() -> None:
    words = [
        word
        for by_value in attributes.LEXICON.values()
        for value in by_value.values()
        for word in value.technical + value.figurative
    ]
    assert len(words) == len(set(words))
    assert attributes.meaning("giraffe") == ("outline", "tall")
    assert attributes.meaning("the") is None


@pytest.mark.heavy
def test_a_lying_shape_is_wide() -> None:
    wide = [t for t in tangrams.procedural_pool(0).tangrams.values() if attributes.values(t).get("outline") == "wide"]
    for tangram in wide[:20]:
        points = [point for polygon in tangram.polygons for point in polygon]
        across = max(x for x, _ in points) - min(x for x, _ in points)
        down = max(y for _, y in points) - min(y for _, y in points)
        assert across > 1.25 * down
