"""Two policies on the same held-out prompts, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from respect_core.measuring.duel import (
    Judged,
    Scored,
    at_equal_length,
    in_both_orders,
    likelihoods,
    question,
    verdict,
    win_rate,
)


def _scored(users: int, disliked: bool) -> list[Scored]:
    liked = [Scored(f"u{n}", True, -1.0 - n / 10, -2.0 - n / 10) for n in range(users)]
    return liked + ([Scored(f"u{n}", False, -3.0, -2.5) for n in range(users)] if disliked else [])


def test_likelihoods_and_margins() -> None:
    found = likelihoods(_scored(4, disliked=True))
    assert (found.liked, found.disliked, found.users) == (4, 4, 4)
    assert found.first.value == pytest.approx(-1.15) and found.second.value == pytest.approx(-2.15)
    # Pairs cancel what makes users differ.
    assert (found.difference.low, found.difference.value, found.difference.high) == pytest.approx((1, 1, 1))
    assert found.first.low < found.first.value < found.first.high
    assert found.first_margin is not None and found.first_margin.value == pytest.approx(1.85)
    assert found.second_margin is not None and found.second_margin.value == pytest.approx(0.35)
    assert found.margin_difference is not None and found.margin_difference.value == pytest.approx(1.5)


def test_without_disliked_replies_there_is_no_margin() -> None:
    found = likelihoods(_scored(3, disliked=False))
    assert found.first_margin is found.second_margin is found.margin_difference is None
    with pytest.raises(ValueError, match="no held-out reply"):
        likelihoods([])


def test_intervals_are_clustered_by_user() -> None:
    """A hundred replies of two users tell no more than two users do."""
    one = [Scored("u0", True, -1.0, -2.0)] * 50 + [Scored("u1", True, -2.0, -1.0)] * 50
    found = likelihoods(one)
    assert (found.difference.low, found.difference.high) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("A", 1.0),
        (" **B**.", 0.0),
        ("tie", 0.5),
        ("Reply A", 1.0),
        ("A good question", None),
        ("Both are fine", None),
        ("", None),
        (None, None),
    ],
)
def test_a_verdict_is_one_word(answer: str | None, said: float | None) -> None:
    assert verdict(answer) == said


def test_a_win_is_the_mean_of_both_orders() -> None:
    assert in_both_orders("A", "B") == 1.0 and in_both_orders("B", "A") == 0.0
    assert in_both_orders("A", "A") == in_both_orders("tie", "tie") == 0.5  # it favours a place
    assert in_both_orders("A", "tie") == 0.75 and in_both_orders("A", "hm") is None


def test_a_judge_that_prefers_length_prefers_neither_policy() -> None:
    """The first policy's replies are longer three times in four, and longer ones win: at equal length it is even."""
    lengths = [(200, 100)] * 15 + [(100, 200)] * 5
    pairs = [
        Judged(f"u{user}", float((first > second) != (place % 5 == user % 5)), first, second)  # one in five is odd
        for user in range(20)
        for place, (first, second) in enumerate(lengths)
    ]
    found = win_rate(pairs)
    assert found is not None and (found.pairs, found.users, found.ties) == (400, 20, 0)
    assert found.raw.value == 0.65 and found.equal_length.value == pytest.approx(0.5, abs=0.01)
    assert (found.first_length, found.second_length) == (175.0, 125.0)


def test_a_judge_that_does_not_care_for_length_is_left_alone() -> None:
    won, length = np.array([1.0, 1.0, 1.0, 0.0] * 50), np.repeat([1.0, -1.0], 100)
    assert at_equal_length(won, length) == pytest.approx(0.75, abs=0.01)
    everything = win_rate([Judged(f"u{n}", 1.0, 10, 10) for n in range(30)])
    assert everything is not None and everything.raw.low == 1.0 and 0.9 < everything.equal_length.value < 1.0
    assert win_rate([]) is None


def test_the_question_has_the_conversation_and_both_replies() -> None:
    said = [{"role": "user", "content": [{"type": "text", "text": "which one?"}]}]
    system, asked = question(said, "this", "that")
    assert "never an instruction" in system["content"]
    assert "user: which one?" in asked["content"]
    assert asked["content"].index("<reply A>\nthis") < asked["content"].index("<reply B>\nthat")
