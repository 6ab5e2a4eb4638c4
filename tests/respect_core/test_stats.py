"""The bootstrap against every draw there is on tiny data, and against the normal approximation on large data."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from respect_core import stats
from respect_core.stats import by_game, difference, estimates, quotients, ratio, resampled


def test_every_draw_comes_as_often_as_it_should() -> None:
    """Three games have 27 draws, all as likely: 1 of nothing but the first game, 3 of two of it and one second, ..."""
    rows = np.array([[1, 2], [0, 1], [3, 4]])
    exact = Counter(tuple(rows[list(draw)].sum(0).tolist()) for draw in product(range(3), repeat=3))
    drawn = Counter(map(tuple, resampled(rows, 27_000, 0).tolist()))
    assert drawn.keys() == exact.keys()
    for sums, times in exact.items():
        share = times / 27
        spread = (share * (1 - share) / 27_000) ** 0.5
        assert drawn[sums] / 27_000 == pytest.approx(share, abs=4 * spread)


def test_the_interval_is_the_percentiles_of_every_draw() -> None:
    """At 80%, both ends lie well inside one value's share of the 27 draws, so that chance moves neither."""
    rows = np.array([[1, 2], [0, 1], [3, 4]])
    ratios = sorted(np.divide(*rows[list(draw)].sum(0)) for draw in product(range(3), repeat=3))
    # 1 draw of 27 has ratio 0 and 3 have 1/4: the 10th percentile lies among the latter; 1 has 3/4, 3 have 7/10
    assert (ratios[2], ratios[24]) == (0.25, 0.7)
    found = ratio([1, 0, 3], [2, 1, 4], level=0.8)
    assert (found.value, found.low, found.high) == (4 / 7, 0.25, 0.7)


def test_a_rate_over_many_games_has_the_interval_of_the_delta_method() -> None:
    rng = np.random.default_rng(3)
    turns = rng.integers(3, 11, 2000)
    right = rng.binomial(turns, 0.4)
    rate = right.sum() / turns.sum()
    error = np.sqrt(np.mean((right - rate * turns) ** 2) / len(turns)) / turns.mean()
    found = ratio(right, turns)
    assert found.low == pytest.approx(rate - 1.96 * error, abs=0.06 * error)
    assert found.high == pytest.approx(rate + 1.96 * error, abs=0.06 * error)


def test_figures_that_go_together_are_resampled_together() -> None:
    """Won and lost games add up in every resample, so the interval of one is that of the other mirrored."""
    won = np.array([1] * 30 + [0] * 20)
    rows = np.stack([won, np.ones(50), 1 - won, np.ones(50)], axis=1)
    first, second = stats.bootstrap(rows, quotients)
    assert first is not None and second is not None
    assert (first.low, first.high) == (pytest.approx(1 - second.high), pytest.approx(1 - second.low))


def test_draws_do_not_depend_on_being_kept_or_on_the_size_of_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(70).reshape(35, 2)
    kept = resampled(rows, 500, 7)
    assert (resampled(rows, 500, np.random.default_rng(7)) == kept).all()
    monkeypatch.setattr(stats, "_CHUNK", 100)
    monkeypatch.setattr(stats, "_CACHEABLE", 0)
    assert (resampled(rows, 500, 7) == kept).all()
    assert (resampled(rows, 500, 8) != kept).any()


def test_a_figure_that_is_not_defined_is_none_and_such_resamples_are_left_out() -> None:
    never, often, sometimes = np.zeros((4, 2)), np.ones((4, 2)), np.zeros((4, 2))
    sometimes[0] = 1, 2
    figures = stats.bootstrap(np.concatenate([never, often, sometimes], axis=1), quotients)
    assert figures[0] is None
    assert figures[1] == stats.Estimate(1, 1, 1)
    assert figures[2] == stats.Estimate(0.5, 0.5, 0.5)


def test_two_samples_are_drawn_apart_even_if_they_are_equal() -> None:
    """The same draws for both would cancel, and the difference would have no spread."""
    rows = np.stack([np.array([1] * 200 + [0] * 200), np.ones(400)], axis=1)
    found = difference(rows, rows, quotients)[0]
    assert found is not None and found.value == 0
    half = 1.96 * (2 * 0.25 / 400) ** 0.5
    assert (found.low, found.high) == (pytest.approx(-half, abs=0.005), pytest.approx(half, abs=0.005))
    later = difference(rows[200:], rows[:200], quotients)[0]
    assert later is not None and later.value == 1  # second minus first


@given(
    st.lists(st.tuples(st.sampled_from(["b", "a", "é", "10", "9"]), st.integers(-5, 5), st.integers(0, 5)), min_size=1)
)
def test_turns_are_added_up_by_game(turns: list[tuple[str, int, int]]) -> None:
    expected: dict[str, list[int]] = {}
    for game, *columns in turns:
        sums = expected.setdefault(game, [0, 0])
        for place, value in enumerate(columns):
            sums[place] += value
    found = by_game([game for game, *_ in turns], [columns for _, *columns in turns])
    assert found.tolist() == [expected[game] for game in sorted(expected)]


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="no games"):
        stats.bootstrap(np.zeros((0, 2)), quotients)
    with pytest.raises(ValueError, match="2 turns with the games of 1"):
        by_game(["a"], [[1], [2]])
    with pytest.raises(ValueError, match="no turns"):
        ratio([], [])
    with pytest.raises(ValueError, match="no turns"):
        ratio([1.0], [0.0])


def test_estimates_take_each_column_by_itself() -> None:
    drawn = np.array([[0.0, 10], [1, 20], [2, 30], [3, 40], [4, 50]])
    assert estimates(np.array([2.0, 30]), drawn, level=0.5) == [
        stats.Estimate(2, 1, 3),
        stats.Estimate(30, 20, 40),
    ]


@pytest.mark.parametrize(
    ("tail", "freedom", "printed"),
    [(0.025, 10, 2.228), (0.025, 29, 2.045), (0.005, 29, 2.756), (0.0005, 29, 3.659), (0.0005, 120, 3.373)],
)
def test_students_quantiles_are_the_printed_ones(tail: float, freedom: int, printed: float) -> None:
    assert stats.student_quantile(tail, freedom) == pytest.approx(printed, abs=0.002)


def test_a_ratios_interval_covers_what_it_should() -> None:
    """Games of one to six turns, each right by chance: of 2,000 samples one in ten misses at each end."""
    rng, missed = np.random.default_rng(0), np.zeros(2)
    for _ in range(2000):
        turns = rng.integers(1, 7, 80)
        found = stats.linear_ratio(rng.binomial(turns, 0.4), turns, tail=0.1)
        missed += (found.low > 0.4, found.high < 0.4)
    assert missed / 2000 == pytest.approx([0.1, 0.1], abs=0.02)
    assert stats.linear_ratio([1], [2], tail=0.1) == stats.Estimate(0.5, -np.inf, np.inf)
    with pytest.raises(ValueError, match="no turns"):
        stats.linear_ratio([], [], tail=0.1)
