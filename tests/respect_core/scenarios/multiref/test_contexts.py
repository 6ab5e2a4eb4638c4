"""Contexts: ten images, three to five targets, two different orders, the same for a seed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from respect_core.scenarios.multiref import contexts
from respect_core.scenarios.multiref.contexts import GameContext

SPLIT = tuple(f"tan-{i:04d}" for i in range(60))


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_contexts_follow_the_rules_and_their_seed(seed: int, n: int) -> None:
    games = contexts.sample(SPLIT, n, seed)
    assert games == contexts.sample(tuple(reversed(SPLIT)), n + 3, seed)[:n]
    for game in games:
        assert len(set(game.images)) == 10 and set(game.images) <= set(SPLIT)
        assert 3 <= len(game.targets) <= 5 and set(game.targets) <= set(game.images)
        assert sorted(game.speaker_order) == sorted(game.images) and game.speaker_order != game.images
        assert [game.images["ABCDEFGHIJ".index(x)] for x in game.target_letters] == [
            image for image in game.images if image in game.targets
        ]


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 40))
def test_strata_are_even_at_every_length(seed: int, n: int) -> None:
    games = contexts.sample(SPLIT, n, seed, stratified=True)
    sizes = [len(game.targets) for game in games]
    counts = [sizes.count(each) for each in contexts.TARGETS]
    assert max(counts) - min(counts) <= 1
    assert games == contexts.sample(SPLIT, n + 5, seed, stratified=True)[:n]


def test_a_single_stratified_context_may_have_any_number_of_targets() -> None:
    assert {len(contexts.sample(SPLIT, 1, seed, stratified=True)[0].targets) for seed in range(30)} == {3, 4, 5}


def test_seeds_differ() -> None:
    assert contexts.sample(SPLIT, 3, 1) != contexts.sample(SPLIT, 3, 2)


def test_a_bad_context_is_refused() -> None:
    with pytest.raises(ValueError, match="10 images"):
        contexts.sample(SPLIT[:9], 1, 0)
    with pytest.raises(ValueError, match="each once"):
        GameContext("x", ("a", "a"), ("a", "a"), ())
    with pytest.raises(ValueError, match="not all among"):
        GameContext("x", ("a", "b"), ("b", "a"), ("c",))
