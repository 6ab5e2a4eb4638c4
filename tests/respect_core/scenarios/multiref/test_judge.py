"""The judge of the reference game: what a target is to an action."""

from __future__ import annotations

import pytest

from respect_core.measuring.judge import judge
from respect_core.scenario import ScenarioError
from respect_core.scenarios.multiref.actions import ActionError
from respect_core.scenarios.multiref.judge import JUDGE
from respect_core.scenarios.multiref.similarity import similarity

CONTEXT = ("boat", "dog", "cat", "house")  # A, B, C, D
TARGETS = ["dog", "boat"]


def same(a: str, b: str) -> float:
    return float(a == b)


def test_it_is_found_by_the_name_that_the_tables_have() -> None:
    assert judge("multiref") is JUDGE


@pytest.mark.parametrize(
    ("action", "label"),
    [
        ("select A", 1),
        ("select A B", 1),
        ("select A C", -1),
        ("select C", -1),
        ("deselect C", 1),
        ("deselect A", -1),
        ("deselect A C", -1),
        ("deselect C select A", 1),
        ("deselect C select D", 0),
        ("deselect B select A", 0),
        ("deselect B select D", -1),
        ("nothing", -1),
    ],
)
def test_label_of_an_action(action: str, label: int) -> None:
    assert JUDGE.label(action, CONTEXT, TARGETS) == label


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("select A", (1, 1)),
        ("select C", (0, 1)),
        ("deselect C", (1, 1)),
        ("deselect A", (0, 1)),
        ("deselect A C select B D", (2, 4)),  # C off and B on are accurate
        ("nothing", (0, 0)),
    ],
)
def test_a_click_is_accurate_if_it_selects_a_target_or_deselects_another(
    action: str, expected: tuple[int, int]
) -> None:
    assert JUDGE.credit(action, CONTEXT, TARGETS) == expected


def test_letters_name_images_in_the_listeners_order() -> None:
    """Letters A and B are other images in another context; a target that is not there has no letter."""
    assert JUDGE.label("select A B", CONTEXT[::-1], TARGETS) == -1
    assert JUDGE.label("select C D", CONTEXT[::-1], TARGETS) == 1
    assert JUDGE.credit("select A B", CONTEXT[:1], TARGETS) == (1, 2)


def test_an_intended_action_is_canonical_and_legal() -> None:
    assert JUDGE.intended(" Select b  a", "C", CONTEXT) == JUDGE.canonical("select B A") == "select A B"
    for text, wrong in (
        ("the boat", "not in the action language"),
        ("deselect A", "not selected in state"),
        ("select E", "the context has 4 images"),
    ):
        with pytest.raises(ScenarioError, match=wrong):
            JUDGE.intended(text, "C", CONTEXT)


def test_actions_are_as_alike_as_equation_3_says() -> None:
    action, intended = "deselect B select A D", "deselect B select A"
    found = JUDGE.similarity(action, intended, CONTEXT, same)
    assert found == similarity(action, intended, CONTEXT, same) == 2 / 3


def test_what_is_no_action_is_an_error() -> None:
    for method in (JUDGE.label, JUDGE.credit):
        with pytest.raises(ActionError, match="not in the action language"):
            method("the boat", CONTEXT, TARGETS)
