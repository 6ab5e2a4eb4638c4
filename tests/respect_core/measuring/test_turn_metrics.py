"""Table 5 and the annotators' agreement against arithmetic by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from respect_core.measuring.turn_metrics import AnnotatedTurn, TurnFigures, agreement, first_annotations, turn_figures

CONTEXT = ("boat", "dog", "cat", "house")


def row(game: str, turn: int, action: str, intended: str | None, satisfaction: str | None = None) -> AnnotatedTurn:
    return AnnotatedTurn(game, turn, "multiref", CONTEXT, "", action, intended, satisfaction, annotator="w1")


ROWS = [
    row("g1", 0, "select A", "select A", "yes"),
    row("g1", 1, "select B", "select C", "partial"),
    row("g1", 2, "deselect B select D", "deselect B select D", "no"),
    row("g2", 0, "select A", "nothing", "no"),
    row("g2", 1, "select B", "select B"),  # the last turn: no follow-up
]


def same(a: str, b: str) -> float:
    return float(a == b)


def test_table_5_by_hand() -> None:
    """Similarities: 1, 0, (1 + 1) / 2, -1, 1; under negative feedback 1 and -1."""
    found = turn_figures(ROWS, same)
    assert found.turns == 5
    assert found.exact_match is not None and found.exact_match.value == 3 / 5
    assert found.similarity is not None and found.similarity.value == 2 / 5
    assert found.similarity_negative is not None and found.similarity_negative.value == 0
    assert found.positive_feedback is not None and found.positive_feedback.value == 1 / 4  # only "yes"; one not asked


def test_intervals_draw_games() -> None:
    """Of two games, a quarter of the draws has either alone: 2/3 and 1/2 for exact match."""
    exact = turn_figures(ROWS).exact_match
    assert exact is not None
    assert (exact.low, exact.high) == (1 / 2, 2 / 3)
    alone = turn_figures([replace(each, interaction_id=str(n)) for n, each in enumerate(ROWS)]).exact_match
    assert alone is not None
    assert alone.high - alone.low > exact.high - exact.low


def test_what_is_not_told_is_none_and_does_not_count() -> None:
    untold = [replace(each, intended=None, satisfaction=None) for each in ROWS]
    assert turn_figures(untold, same) == TurnFigures(5, None, None, None, None)
    released = [replace(untold[0], correct=True), replace(untold[1], correct=False), untold[2]]
    exact = turn_figures(released, same).exact_match
    assert exact is not None and exact.value == 1 / 2
    assert turn_figures(ROWS).similarity is None  # without a similarity of images


def test_an_action_is_right_in_any_spelling() -> None:
    assert row("g", 0, "select A C", "Select C A").right is True
    assert row("g", 0, "select A C", "select A").right is False


def test_the_first_annotator_counts_in_whatever_order_rows_come() -> None:
    other = replace(ROWS[0], annotator="w2", intended="select D")
    assert first_annotations([other, *ROWS[::-1]]) == ROWS
    assert turn_figures([other, *ROWS]) == turn_figures(ROWS)


def test_agreement_by_hand() -> None:
    """Four turns with three annotators and one with two, which does not count."""

    def turn(number: int, intended: list[str | None], satisfaction: list[str | None]) -> list[AnnotatedTurn]:
        return [
            replace(row("g", number, "select A", each, said), annotator=f"w{index}")
            for index, (each, said) in enumerate(zip(intended, satisfaction, strict=True))
        ]

    rows = [
        *turn(0, ["select A"] * 3, ["yes"] * 3),  # all right, one action
        *turn(1, ["select B", "select C", "select B C"], ["no"] * 3),  # all wrong, three actions
        *turn(2, ["select A", "select A", "select B"], ["yes", "yes", "partial"]),
        *turn(3, ["select C B", "select B C", "Select B C"], ["yes", None, None]),  # one action, spelt apart
        *turn(4, ["select A", "select B"], ["yes", "no"]),
    ]
    found = agreement(rows)
    assert found.turns == 4
    assert found.correctness is not None and found.correctness.value == 3 / 4  # footnote 8
    assert found.action is not None and found.action.value == 2 / 4  # footnote 9
    assert found.satisfaction is not None and found.satisfaction.value == 2 / 3  # turn 3 was not answered by all
    none = agreement(rows[-2:])
    assert (none.turns, none.correctness, none.action, none.satisfaction) == (0, None, None, None)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="no games"):
        turn_figures([])
    with pytest.raises(ValueError, match="interaction g1, turn 0: satisfaction 'maybe' is none of yes, partial"):
        turn_figures([replace(ROWS[0], satisfaction="maybe")])
    with pytest.raises(ValueError, match="interaction g1, turn 0: an annotator answered twice"):
        agreement([ROWS[0], ROWS[0]])
