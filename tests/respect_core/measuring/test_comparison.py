"""Two policies on the same contexts, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from respect_core.measuring.comparison import paired, sign_test
from respect_core.measuring.metrics import figures


def test_paired_by_hand() -> None:
    first = np.array([[1, 4, 4, 4], [1, 6, 3, 6], [0, 10, 2, 10], [1, 2, 3, 4]])
    second = np.array([[0, 10, 2, 8], [1, 8, 3, 8], [1, 8, 6, 8], [0, 10, 1, 8]])
    found = paired(first, second)
    assert (found.contexts, found.wins, found.losses, found.ties) == (4, 2, 1, 1)
    assert found.success.value == 0.25
    assert found.turns_per_game.value == (-6 - 2 + 2 - 8) / 4
    assert found.click_accuracy is not None
    assert found.click_accuracy.value == pytest.approx(12 / 24 - 12 / 32)
    assert found.p == 1  # 2 of 3: as even as can be


def test_pairs_are_drawn_together() -> None:
    """Two policies that differ by one turn in every context differ by one turn in every resample."""
    rng = np.random.default_rng(0)
    second = np.stack([rng.integers(0, 2, 50), rng.integers(2, 10, 50), rng.integers(0, 5, 50), np.full(50, 9)], axis=1)
    first = second - [0, 1, 0, 0]
    found = paired(first, second)
    assert (found.turns_per_game.value, found.turns_per_game.low, found.turns_per_game.high) == (-1, -1, -1)
    assert (found.success.low, found.success.high, found.p) == (0, 0, 1)
    alone = figures([second]).turns_per_game
    assert alone.high - alone.low > 0.5


def test_the_sign_test_is_the_binomials_two_tails() -> None:
    assert sign_test(5, 0) == 2 / 32
    assert sign_test(1, 7) == sign_test(7, 1) == 2 * (1 + 8) / 256
    assert sign_test(3, 3) == sign_test(0, 0) == 1
    assert sign_test(900, 1100) == pytest.approx(7.7e-6, rel=0.1)  # 4.47 standard deviations, less half a step


def test_what_cannot_be_paired_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 contexts against 2"):
        paired(np.zeros((1, 4), int), np.zeros((2, 4), int))
    with pytest.raises(ValueError, match="no games"):
        paired(np.zeros((0, 4), int), np.zeros((0, 4), int))
