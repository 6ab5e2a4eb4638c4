"""docs/architecture.md answers each question from at most three files that exist, and draws the packages there are."""

from __future__ import annotations

import re

import pytest
from paths import REPOSITORY

PAGE = (REPOSITORY / "docs" / "architecture.md").read_text()
ANSWERS = dict(re.findall(r"^## ([^\n]+\?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def test_five_questions_are_answered() -> None:
    newcomers = {"Where does a turn go?", "Where is each loss?"} | {
        f"How do I add a {part}?" for part in ("variant", "scenario", "model")
    }
    assert newcomers <= ANSWERS.keys()


@pytest.mark.parametrize("question", ANSWERS)
def test_an_answer_names_at_most_three_files_that_exist(question: str) -> None:
    files = re.findall(r"^\| `([^`]+)` \|", ANSWERS[question], re.MULTILINE)
    assert 1 <= len(files) <= 3
    assert [file for file in files if not (REPOSITORY / file).is_file()] == []


def test_the_drawing_has_every_package_of_the_method() -> None:
    drawing = PAGE.split("```")[1]
    drawn = set(re.findall(r"(\w+)/", drawing.split("respect_core/")[1]))
    assert drawn == {path.parent.name for path in (REPOSITORY / "respect_core").glob("*/__init__.py")}
