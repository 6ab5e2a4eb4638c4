"""The port for measuring: its defaults, and judges that are not there."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest

from respect_core.measuring.judge import Judge, judge
from respect_core.scenario import ScenarioError


class Word(Judge):
    """One word is right."""

    def label(self, action: str, context: Sequence[str], targets: Collection[str]) -> int:
        return 1 if action in targets else -1


def test_plain_text_is_right_or_wrong_as_a_whole_and_has_one_spelling() -> None:
    word = Word()
    assert (word.credit("lamp", [], ["lamp"]), word.credit("fan", [], ["lamp"])) == ((1, 1), (0, 1))
    assert word.canonical("Lamp") == word.intended("Lamp", "", []) == "Lamp"
    with pytest.raises(ScenarioError, match="blank"):
        word.intended(" ", "", [])
    assert word.similarity("lamp", "fan", [], lambda a, b: 1.0) is None


def test_a_scenario_without_a_judge_is_named() -> None:
    with pytest.raises(ScenarioError, match=r"'chess' is not installed .*respect\.judges.*there are: .*multiref"):
        judge("chess")
