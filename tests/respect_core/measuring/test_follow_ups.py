"""What follow-ups say of a version, and of two."""

from __future__ import annotations

import numpy as np
import pytest

from respect_core.measuring.follow_ups import Compared, Said, compare, follow_ups


def _said(rng: np.random.Generator, users: int, negative: float, name: str) -> list[Said]:
    """One conversation of two follow-ups for each user; both are negative, or neither."""
    return [
        Said(f"{name}-{user}", label) for user in range(users) for label in [-1 if rng.random() < negative else 1] * 2
    ]


def test_shares_by_hand() -> None:
    found = follow_ups(["a", "a", "b", "c"], [-1, 1, 1, 0])
    assert found is not None and (found.turns, found.users) == (4, 3)
    assert (found.negative_follow_ups.value, found.positive_follow_ups.value) == (0.25, 0.5)
    assert follow_ups([], []) is None


def test_a_difference_is_second_minus_first() -> None:
    first = [Said(f"u{n}", -1 if n < 30 else 1) for n in range(60)]
    second = [Said(f"v{n}", -1 if n < 15 else 1) for n in range(60)]
    found = compare(first, second, conversations=(60, 60))
    assert found is not None and found.conversations == (60, 60)
    assert found.negative_difference.value == pytest.approx(-0.25) == -found.positive_difference.value
    assert found.negative_difference.high < 0 < found.positive_difference.low
    assert compare(first, [], conversations=(60, 9)) is None


def test_how_many_conversations_a_decision_needs_by_hand() -> None:
    """Independent turns of one conversation each: the textbook's size of a test of two shares."""
    side = [Said(f"u{n}", -1 if n % 5 == 0 else 1) for n in range(100)]
    found = compare(side, side, conversations=(100, 100), effect=0.1)
    assert found is not None and found.needed == pytest.approx((1.96 + 0.8416) ** 2 * 2 * 0.2 * 0.8 / 0.1**2, rel=0.01)
    silent = compare(side, side, conversations=(300, 300), effect=0.1)
    assert silent is not None and silent.needed == pytest.approx(3 * found.needed, abs=2), "two of three say nothing"
    alike = [Said(f"u{n}", 1) for n in range(9)]
    assert compare(alike, alike, conversations=(9, 9)).needed is None  # type: ignore[union-attr]  # there are follow-ups


def test_the_stated_number_of_conversations_finds_the_difference() -> None:
    """With the number that a pilot names, about eight of ten comparisons of versions that differ exclude no effect."""
    rng = np.random.default_rng(0)
    pilot = compare(_said(rng, 400, 0.3, "a"), _said(rng, 400, 0.3, "b"), conversations=(400, 400), effect=0.15)
    assert pilot is not None and pilot.needed is not None
    found: list[Compared] = []
    for _ in range(200):
        sides = (_said(rng, pilot.needed, 0.375, "a"), _said(rng, pilot.needed, 0.225, "b"))
        compared = compare(*sides, conversations=(pilot.needed, pilot.needed), resamples=400)
        assert compared is not None
        found.append(compared)
    share = np.mean([each.negative_difference.high < 0 for each in found])
    assert 0.7 < share < 0.9
