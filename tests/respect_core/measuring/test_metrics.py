"""Metrics against arithmetic by hand, and intervals against what is known of them."""

from __future__ import annotations

import time

import numpy as np
import pytest
from samples import IMAGES, game, with_images

from respect_core.log.export import export
from respect_core.log.log import append_logs
from respect_core.log.records import Outcome, outcome_row, turn_rows
from respect_core.measuring.metrics import counts, counts_of_logs, figures, read_counts
from respect_core.stats import ratio
from respect_core.store.base import Store


def test_counts_of_games_by_hand() -> None:
    """The sample clicks C (wrong), C off (right), D (right), A (right): 3 of 4."""
    won = game("g1")
    lost = game("g0", outcome=Outcome(targets=["image-B"], success=False))  # only C off is right: 1 of 4
    unknown = game("g2", outcome=None)
    logs = [won, lost, unknown]
    found = counts([row for log in logs for row in turn_rows(log)], [outcome_row(log) for log in logs])
    assert found.tolist() == [[0, 3, 1, 4], [1, 3, 3, 4]]
    assert counts_of_logs(logs) == {"g0": [0, 3, 1, 4], "g1": [1, 3, 3, 4]}


def test_counts_are_read_from_the_tables(store: Store) -> None:
    append_logs(with_images(store, IMAGES), [game("g1"), game("g2", context=IMAGES[::-1])])
    export(store, 5)
    assert read_counts(store, 5, "b-fft").tolist() == [[1, 3, 3, 4], [1, 3, 1, 4]]
    assert read_counts(store, 5, "t-fft").shape == (0, 4)


def test_figures_by_hand() -> None:
    measured = figures([np.array([[1, 4, 4, 4], [0, 10, 2, 12], [1, 6, 6, 8], [0, 10, 3, 6]])])
    assert measured.games == 4
    assert measured.success.value == 0.5
    assert measured.turns_per_game.value == 7.5
    assert measured.click_accuracy is not None
    assert measured.click_accuracy.value == 15 / 30  # over all clicks, not over games


def test_the_interval_is_that_of_the_binomial() -> None:
    won = 120
    games = np.array([[1, 5, 1, 1]] * won + [[0, 10, 0, 1]] * (300 - won))
    measured = figures([games])
    spread = 1.96 * (0.4 * 0.6 / 300) ** 0.5
    assert measured.success.low == pytest.approx(0.4 - spread, abs=0.006)
    assert measured.success.high == pytest.approx(0.4 + spread, abs=0.006)
    assert measured.turns_per_game.low == pytest.approx(10 - 5 * measured.success.high)  # the same resamples
    assert measured == figures([games])
    assert measured != figures([games], seed=1)


def test_resampling_is_in_games_so_that_clicks_of_a_game_stay_together() -> None:
    together = np.array([[1, 5, 10, 10]] * 20 + [[0, 10, 0, 10]] * 20)
    apart = np.array([[1, 5, 1, 1]] * 200 + [[0, 10, 0, 1]] * 200)
    wide, narrow = figures([together]).click_accuracy, figures([apart]).click_accuracy
    assert wide is not None and narrow is not None
    assert wide.high - wide.low > 2.5 * (narrow.high - narrow.low)


def test_several_studies_count_alike_whatever_their_size() -> None:
    few, many = np.array([[1, 5, 5, 5]] * 10), np.array([[0, 10, 0, 10]] * 30)
    measured = figures([few, many])
    assert (measured.games, measured.success.value, measured.turns_per_game.value) == (40, 0.5, 7.5)
    assert (measured.success.low, measured.success.high) == (0.5, 0.5)  # no study varies within itself


def test_a_ratio_resamples_pairs() -> None:
    found = ratio([1, 0, 3], [2, 2, 4])
    assert found.value == 0.5
    assert 0 <= found.low < 0.5 < found.high <= 0.75
    with pytest.raises(ValueError, match="no turns"):
        ratio([0], [0])


@pytest.mark.parametrize("studies", [[], [np.zeros((0, 4), int)], [np.array([[0, 10, 0, 1]]), np.zeros((0, 4), int)]])
def test_nothing_to_measure_is_an_error(studies: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="no games to measure"):
        figures(studies)


def test_a_policy_that_never_clicks_has_all_figures_but_one() -> None:
    silent, clicking = np.array([[0, 10, 0, 0]] * 3), np.array([[1, 5, 2, 4]] * 3)
    measured = figures([silent])
    assert (measured.success.value, measured.turns_per_game.high, measured.click_accuracy) == (0, 10, None)
    assert figures([silent, clicking]).click_accuracy is None  # one study without it has no mean with another
    mixed = figures([np.concatenate([silent, clicking[:1]])]).click_accuracy
    assert mixed is not None and mixed.value == mixed.low == 0.5  # resamples without a click are left out


def test_ten_thousand_resamples_of_a_paper_sized_round_are_quick_and_big_ones_fit() -> None:
    rng = np.random.default_rng(0)
    started = time.process_time()
    figures([rng.integers(1, 9, (330, 4))])
    assert time.process_time() - started < 5
    figures([rng.integers(1, 9, (20_000, 4))], resamples=1000)
