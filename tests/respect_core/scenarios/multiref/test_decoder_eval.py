"""Figures of the decoder, against arithmetic done by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from respect_core.scenarios.multiref import decoder_eval
from respect_core.scenarios.multiref.decoder_eval import Rates

SCORED = [(0.9, True), (0.8, True), (0.7, False), (0.7, True), (0.2, False), (0.1, True)]


def test_rates_by_hand() -> None:
    assert decoder_eval.rates([(True, True), (True, False), (False, True), (False, False), (True, True)]) == Rates(
        2 / 3, 2 / 3
    )
    assert decoder_eval.rates([(True, False)]) == Rates(None, 0.0)
    assert decoder_eval.rates([(False, True)]) == Rates(0.0, None)


def test_auc_by_hand() -> None:
    # Against .7: two above, one equal (one half), one below; against .2: three above, one below. 5.5 of 8 pairs.
    assert decoder_eval.auc(SCORED) == pytest.approx(5.5 / 8)
    assert decoder_eval.auc([(1.0, True)]) is None


def test_curve_steps_over_ties() -> None:
    assert decoder_eval.curve(SCORED) == [
        Rates(1.0, 0.25, 0.9),
        Rates(1.0, 0.5, 0.8),
        Rates(0.75, 0.75, 0.7),
        Rates(0.6, 0.75, 0.2),
        Rates(4 / 6, 1.0, 0.1),
    ]


def test_threshold_with_the_highest_recall() -> None:
    assert decoder_eval.choose_threshold(SCORED, 0.75) == 0.7
    assert decoder_eval.choose_threshold(SCORED, 0.8) == 0.8
    assert decoder_eval.choose_threshold([(0.5, False), (0.4, True)], 0.9) == 0.4  # none reaches it: the most precise
    assert decoder_eval.choose_threshold([(-1.0814, True)], 0.9) == -1.08  # rounded up
    with pytest.raises(ValueError, match="no scored turns"):
        decoder_eval.choose_threshold([], 0.9)


def test_cross_validation_chooses_out_of_fold() -> None:
    """Two games in two folds: each is judged by the other's threshold."""
    scored = [("a", 1.0, True), ("a", 0.5, False), ("b", 3.0, True), ("b", 2.0, False)]
    found = decoder_eval.cross_validate(scored, folds=2, precision=1.0)
    assert sorted(found.thresholds) == [1.0, 3.0]
    # By b's threshold of 3 nothing of a is called; by a's threshold of 1 both turns of b are.
    assert (found.precision, found.recall) == (0.5, 0.5)
    assert found.shipped == 3.0
    with pytest.raises(ValueError, match="2 or more"):
        decoder_eval.cross_validate(scored, folds=1)
    with pytest.raises(ValueError, match="no scored turns"):
        decoder_eval.cross_validate(scored[:2], folds=2)


def _row(game: str, turn: int, label: int, score: float, decoder: str = "binary") -> dict[str, Any]:
    return {
        "interaction_id": game,
        "turn": turn,
        "decoder": decoder,
        "label": label,
        "score": score,
        "thresholds": json.dumps({"positive": 0.0, "neutral": None}),
    }


def test_evaluate_counts_partly_right_as_wrong() -> None:
    feedback = [
        _row("a", 0, 1, 2.0),
        _row("a", 1, 1, 1.0),
        _row("b", 0, -1, -1.0),
        _row("b", 1, -1, -2.0),
        _row("b", 2, 1, 3.0),  # no targets: left out
        _row("b", 0, 0, -1.0, "ternary"),
    ]
    labels = {("a", 0): 1, ("a", 1): 0, ("b", 0): 1, ("b", 1): -1}
    found = decoder_eval.evaluate(feedback, labels, folds=2)
    assert found.turns == 4
    assert found.confusion == {
        "positive": {"positive": 1, "neutral": 0, "negative": 1},
        "neutral": {"positive": 1, "neutral": 0, "negative": 0},
        "negative": {"positive": 0, "neutral": 0, "negative": 1},
    }
    assert found.at_shipped == Rates(0.5, 0.5, 0.0)
    assert found.auc == 0.75
    with pytest.raises(ValueError, match="no turn has both"):
        decoder_eval.evaluate(feedback, {}, "ternary")


def test_a_single_game_has_no_others_to_choose_a_threshold_on() -> None:
    found = decoder_eval.evaluate([_row("a", 0, 1, 2.0), _row("a", 1, -1, -1.0)], {("a", 0): 1, ("a", 1): -1})
    assert (found.turns, found.at_shipped, found.auc) == (2, Rates(1.0, 1.0, 0.0), 1.0)
    assert found.cross_validated is None
