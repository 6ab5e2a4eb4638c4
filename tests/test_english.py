"""The check of the glossary's words (tests/english.py): what it finds, and that exemptions can only shrink."""

from __future__ import annotations

import english
from paths import REPOSITORY

AVOID = {"so many": "this many", "goes on": "resume", "agent": "policy"}


def _words(source: str) -> list[str]:
    return [place.word for place in english.places("respect_core/log/a.py", source, AVOID)]


def test_docstrings_comments_and_names_are_read_and_code_is_not() -> None:
    assert _words('"""It goes\non."""') == ["goes on"]
    assert _words("def so_many(agent): ...") == ["so many", "agent"]
    assert _words("class SoMany:\n    agent = 1\n    def __init__(self): self.agent = 2") == [
        "so many",
        "agent",
        "agent",
    ]
    assert _words('MOST = 3\n"""So many."""') == ["so many"]
    assert _words("try: ...\nexcept ValueError as agent: ...\nimport bot as agent") == ["agent", "agent"]
    assert _words("match 1:\n    case [1, *agent]: ...\n    case agent: ...") == ["agent", "agent"]
    assert _words("# It goes\n# on.\nagents = 1  # so many") == ["goes on", "so many"]
    assert _words("print('so many', agent, agent.name)") == []


def test_a_module_has_a_name_too() -> None:
    assert [place.word for place in english.places("respect_core/log/seed_agent.py", "", AVOID)] == ["agent"]


def test_words_are_whole() -> None:
    assert _words('"""Reagents and agents."""') == []


def test_exemptions_can_only_shrink() -> None:
    found = list(english.places("respect_core/log/a.py", '"""So many."""', AVOID))
    assert english.verdict(found, frozenset({"respect_core.log"})) == []
    assert english.verdict(found, frozenset()) == ['respect_core/log/a.py:1: "so many"; say "this many"']
    assert english.verdict([], frozenset({"respect_core.log"})) == ["respect_core.log is clean: take it out of EXEMPT"]


def test_the_glossary_has_its_terms_once_and_a_word_to_avoid_is_none_of_them() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    avoid = english.glossary(text)
    assert len(avoid) > 30
    assert all(word == word.lower() for word in avoid)
    assert not avoid.keys() & set(avoid.values())
