"""Drift between rounds against arithmetic by hand and against what chance gives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from respect_core.measuring import drift
from respect_core.measuring.drift import Corpus, feedback_drift, feedback_shares, label_counts, language_drift

WORDS = [f"w{number}" for number in range(40)]


def test_language_drift_by_hand() -> None:
    """Unigrams a 1/2, b 1/2 against b 1/4, c 3/4; their mean is a 1/4, b 3/8, c 3/8."""
    rounds = {3: [["a b"], ["b a"]], 5: [["b c c"], ["c", "c c b c c"]], 6: [["b c c c"]]}
    found = language_drift({number: Corpus(games) for number, games in rounds.items()}, permutations=9)
    first, second = found
    assert (first.earlier, first.later, second.earlier, second.later) == (3, 5, 5, 6)
    of_first = 0.5 * math.log2(0.5 / (0.5 + 2 / 9) * 2) + 0.5 * math.log2(2)
    of_second = 2 / 9 * math.log2(2 / 9 / (0.5 + 2 / 9) * 2) + 7 / 9 * math.log2(2)
    assert first.divergence == pytest.approx((of_first + of_second) / 2)
    assert first.unseen == 7 / 9
    assert first.length.value == 3 - 2  # 9 tokens in 3 utterances against 4 in 2
    assert second.unseen == 0


def test_rounds_without_a_word_in_common_diverge_by_one_bit() -> None:
    found = language_drift({0: Corpus([["a b"]] * 30), 1: Corpus([["c d"]] * 30)})[0]
    assert found.divergence == pytest.approx(1)
    assert found.unseen == 1
    assert found.by_chance < 0.2
    assert found.p == pytest.approx(1 / 201)  # nothing dealt at random comes near


def test_two_samples_of_one_language_diverge_as_chance_has_it() -> None:
    rng = np.random.default_rng(1)
    rounds = {number: Corpus([[" ".join(rng.choice(WORDS, 5))] for _ in range(60)]) for number in (0, 1)}
    found = language_drift(rounds)[0]
    assert found.divergence > 0.01
    assert found.divergence == pytest.approx(found.by_chance, rel=0.35)
    assert found.p > 0.05
    assert found.length.low <= 0 <= found.length.high


def test_blocks_of_games_and_of_permutations_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    rounds = {number: Corpus([[" ".join(rng.choice(WORDS, 4))] for _ in range(17)]) for number in (0, 1)}
    found = language_drift(rounds, permutations=20)
    monkeypatch.setattr(drift, "_CELLS", 3 * len(WORDS))
    monkeypatch.setattr(drift, "_DEALS", 7)
    assert language_drift(rounds, permutations=20) == found


def test_feedback_by_hand() -> None:
    earlier, later = label_counts([[1, -1], [-1, -1, 0]]), label_counts([[1, 1, -1, 1]])
    shares = feedback_shares(earlier)
    assert (shares.turns, shares.positive.value, shares.neutral.value, shares.negative.value) == (5, 0.2, 0.2, 0.6)
    change = feedback_drift({0: earlier, 4: later})[0]
    assert (change.earlier, change.later) == (0, 4)
    assert change.positive.value == pytest.approx(0.75 - 0.2)
    assert change.neutral.value == pytest.approx(-0.2)
    assert change.negative.value == pytest.approx(0.25 - 0.6)
    # the later round has one game, so that only the earlier one's draws move: positives 0 to 1/2 of it
    assert (change.positive.low, change.positive.high) == (pytest.approx(0.25), pytest.approx(0.75))


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(ValueError, match="round 1 has no tokens"):
        language_drift({0: Corpus([["a"]]), 1: Corpus([["?!"]])})
    with pytest.raises(ValueError, match="no decoded labels"):
        feedback_shares(label_counts([[]]))
    with pytest.raises(ValueError, match="no games"):
        feedback_drift({0: label_counts([]), 1: label_counts([[1]])})
    assert language_drift({0: Corpus([["a"]])}) == []
