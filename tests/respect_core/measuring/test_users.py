"""Shares of the data by user, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from respect_core.measuring.users import user_shares


def test_by_hand() -> None:
    """Shares 0.6, 0.3 and 0.1; Gini: differences 0.3, 0.5 and 0.2, twice each, over 9 pairs, over twice the mean."""
    found = user_shares({"a": 1, "b": 6, "c": 3, "absent": 0}, top=(1, 2, 5))
    assert (found.users, found.turns) == (3, 10)
    assert found.top == {1: 0.6, 2: 0.9, 5: 1.0}
    assert found.gini == pytest.approx((2 * (0.3 + 0.5 + 0.2) / 9) / (2 / 3))
    assert found.effective == pytest.approx(1 / (0.36 + 0.09 + 0.01))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12))
def test_gini_is_the_mean_difference(turns: list[int]) -> None:
    found = user_shares({str(user): count for user, count in enumerate(turns)})
    differences = sum(abs(a - b) for a in turns for b in turns)
    assert found.gini == pytest.approx(differences / (2 * len(turns) * sum(turns)))
    assert 1 <= found.effective <= len(turns) + 1e-9


def test_equal_users() -> None:
    found = user_shares(dict.fromkeys("abcd", 7))
    assert (found.gini, found.effective, found.top[1]) == (0, 4, 0.25)
    with pytest.raises(ValueError, match="no turns"):
        user_shares({"a": 0})
