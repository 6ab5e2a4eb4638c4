"""Chance levels against counting by hand."""

from __future__ import annotations

import pytest

from respect_core.scenarios.multiref import actions
from respect_core.scenarios.multiref.chance import kind_and_number, single_click


@pytest.mark.parametrize(
    ("action", "state", "single", "shaped"),
    [
        ("select A", "", 1 / 10, 1 / 10),
        ("select A", "BC", 1 / 10, 1 / 8),
        ("deselect B", "BC", 1 / 10, 1 / 2),
        ("select A D", "", 0, 1 / 45),
        ("deselect B select A", "BC", 0, 1 / (2 * 8)),
    ],
)
def test_by_hand(action: str, state: str, single: float, shaped: float) -> None:
    assert single_click(action, state, 10) == single
    assert kind_and_number(action, state, 10) == pytest.approx(shaped)


@pytest.mark.parametrize("state", ["", "A", "BD"])
def test_probabilities_of_all_legal_actions_add_up(state: str) -> None:
    legal = actions.legal_actions(state, 4)
    assert sum(single_click(each, state, 4) for each in legal) == pytest.approx(1)
    kinds = {(len(parsed.deselect), len(parsed.select)) for parsed in map(actions.parse, legal)}
    assert sum(kind_and_number(each, state, 4) for each in legal) == pytest.approx(len(kinds))
