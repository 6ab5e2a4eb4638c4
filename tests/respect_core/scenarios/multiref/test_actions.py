"""The action language where a log is hostile; what is in it, tests of policy and game go through."""

from __future__ import annotations

import pytest

from respect_core.scenarios.multiref import actions
from respect_core.scenarios.multiref.actions import ActionError


def test_white_space_case_and_order_do_not_matter() -> None:
    assert actions.canonical(" Select\t c  A\n") == "select A C"
    assert actions.canonical("NOTHING ") == "nothing"


def test_the_longest_action_is_read() -> None:
    longest = "deselect A B C D E select F G H I J"
    assert len(longest) == actions.LONGEST
    assert actions.canonical(longest) == longest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("select " + "A " * 1_000_000, "longer than any action"),
        ("x" * 1_000_000, "longer than any action"),
        ("select" + " " * 1_000_000 + "A", "is not canonical; write 'select A'"),
    ],
)
def test_megabytes_from_a_log_are_neither_kept_nor_repeated(text: str, message: str) -> None:
    before = actions.step.cache_info().currsize
    with pytest.raises(ActionError, match=message) as caught:
        actions.step(text, "", 10)
    assert len(str(caught.value)) < 200
    assert actions.step.cache_info().currsize == before
