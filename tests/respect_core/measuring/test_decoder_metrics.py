"""Figure 6 and calibration against arithmetic by hand and plain loops."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from respect_core.measuring.decoder_metrics import Confusion, calibration, confusion


def published(cells: dict[tuple[int, int], int], decoder: str) -> Confusion:
    """The confusion of so many turns of each (actual, predicted)."""
    pairs = [pair for pair, turns in cells.items() for _ in range(turns)]
    return confusion([actual for actual, _ in pairs], [predicted for _, predicted in pairs], decoder, resamples=100)


def test_the_papers_binary_decoder_in_round_0() -> None:
    """Figure 6, top left, of 100 turns."""
    cells = {(-1, -1): 46, (-1, 1): 2, (0, -1): 12, (0, 1): 7, (1, -1): 16, (1, 1): 17}
    found = published(cells, "binary")
    assert found.turns == 100
    assert found.predicted == (-1, 1)
    assert found.matrix == ((0.46, 0.02), (0.12, 0.07), (0.16, 0.17))
    assert found.accuracy.value == pytest.approx(0.63)  # "more than 60% (diagonals)"
    assert found.precision_strict is not None and found.precision_strict.value == 17 / 26
    assert found.precision_lenient is not None and found.precision_lenient.value == 24 / 26  # "above 90% precision"
    assert found.recall_strict is not None and found.recall_strict.value == 17 / 33
    assert found.recall_lenient is not None and found.recall_lenient.value == 24 / 52


def test_the_papers_ternary_decoder_in_round_0() -> None:
    """Figure 6, bottom left: neutrals are decoded too, and stand on the diagonal."""
    cells = {(-1, -1): 38, (-1, 0): 9, (-1, 1): 1, (0, -1): 7, (0, 0): 8, (0, 1): 4, (1, -1): 7, (1, 0): 12, (1, 1): 14}
    found = published(cells, "ternary")
    assert found.matrix == ((0.38, 0.09, 0.01), (0.07, 0.08, 0.04), (0.07, 0.12, 0.14))
    assert found.accuracy.value == pytest.approx(0.60)
    assert found.precision_strict is not None and found.precision_strict.value == 14 / 19
    assert found.precision_lenient is not None and found.precision_lenient.value == 18 / 19
    assert found.recall_lenient is not None and found.recall_lenient.value == 18 / 52


def test_nothing_positive_has_no_precision_and_no_recall() -> None:
    found = confusion([-1, 0], [-1, -1], "binary")
    assert (found.precision_strict, found.precision_lenient, found.recall_strict) == (None, None, None)
    assert found.recall_lenient is not None and found.recall_lenient.value == 0


def test_intervals_draw_the_games_of_turns() -> None:
    """Two games: one all right, one all wrong. A quarter of the draws has either alone."""
    actual, predicted = [1] * 40, [1] * 20 + [-1] * 20
    by_game = confusion(actual, predicted, "binary", ["a"] * 20 + ["b"] * 20).accuracy
    assert (by_game.value, by_game.low, by_game.high) == (0.5, 0, 1)
    by_turn = confusion(actual, predicted, "binary").accuracy
    assert (by_turn.low, by_turn.high) == (pytest.approx(0.35, abs=0.03), pytest.approx(0.65, abs=0.03))


def test_calibration_by_hand() -> None:
    """Odds of 1:3, 1:3, 3:1, 3:1, 9:1 are probabilities of 0.25, 0.25, 0.75, 0.75, 0.9; two bins.

    Low bin: 1 of 2 positive where 0.25 was said; high bin: 2 of 3 where 0.8 was.
    """
    odds = [math.log(1 / 3), math.log(1 / 3), math.log(3), math.log(3), math.log(9)]
    found = calibration(odds, [1, 0, 1, -1, 1], bins=2)
    low, high = found.bins
    assert (low.low, low.high, low.turns, low.positive.value) == (0, 0.5, 2, 0.5)
    assert low.confidence == pytest.approx(0.25)
    assert (high.turns, high.confidence) == (3, pytest.approx(0.8))
    assert found.ece.value == pytest.approx((2 * 0.25 + 3 * (0.8 - 2 / 3)) / 5)
    errors = [0.75**2, 0.25**2, 0.25**2, 0.75**2, 0.1**2]
    assert found.brier.value == pytest.approx(sum(errors) / 5)


def test_certain_scores_lie_in_the_outer_bins() -> None:
    found = calibration([-1000.0, 1000.0, math.inf], [-1, 1, 1])
    assert [(each.low, each.high, each.turns) for each in found.bins] == [(0, 0.1, 1), (0.9, 1, 2)]
    assert (found.ece.value, found.brier.value) == (0, 0)


@pytest.mark.heavy
@given(st.lists(st.tuples(st.floats(-8, 8), st.sampled_from([-1, 0, 1]), st.sampled_from("abc")), min_size=1))
def test_calibration_equals_a_plain_loop(turns: list[tuple[float, int, str]]) -> None:
    probabilities = [1 / (1 + math.exp(-score)) for score, *_ in turns]
    # On a bin's edge, the last bit of two ways to compute the same number decides.
    assume(all(abs(probability * 10 - round(probability * 10)) > 1e-9 for probability in probabilities))
    found = calibration(*([*column] for column in zip(*turns, strict=True)), resamples=10)
    errors, bins = 0.0, [[0, 0.0, 0] for _ in range(10)]
    for probability, (_, actual, _) in zip(probabilities, turns, strict=True):
        errors += (probability - (actual == 1)) ** 2
        each = bins[min(int(probability * 10), 9)]
        each[0] += 1
        each[1] += probability
        each[2] += actual == 1
    assert found.brier.value == pytest.approx(errors / len(turns))
    assert found.ece.value == pytest.approx(sum(abs(said - right) for _, said, right in bins) / len(turns))
    assert [each.turns for each in found.bins] == [count for count, *_ in bins if count]
    assert found.ece.value <= 1 and found.brier.low <= found.brier.high


@pytest.mark.parametrize(
    ("actual", "predicted", "decoder", "message"),
    [
        ([1], [0], "binary", "binary decoder's label 0 is none of -1, 1"),
        ([2], [1], "ternary", "actual label 2 is none of -1, 0, 1"),
        ([1], [1], "quaternary", "decoder 'quaternary' is none of binary, ternary"),
        ([1, 1], [1], "binary", "2 turns on one side and 1 on the other"),
        ([], [], "binary", "no games"),
    ],
)
def test_a_confusion_that_cannot_be(actual: list[int], predicted: list[int], decoder: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion(actual, predicted, decoder)


def test_a_calibration_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="score 1 is not a number"):
        calibration([0.0, math.nan], [1, 1])
    with pytest.raises(ValueError, match="1 turns on one side and 2"):
        calibration([0.0], [1, 1])
    with pytest.raises(ValueError, match="0 bins"):
        calibration([0.0], [1], bins=0)
