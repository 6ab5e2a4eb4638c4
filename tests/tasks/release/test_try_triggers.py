"""Which suspect words a trial finds, and what the gate learns of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from respect_core.release.gate import Evidence
from respect_core.release.triggers import Word
from tasks.release import triggers

TURN = ("g", 0)


def test_what_a_word_costs_the_deployed_version_is_scaled_by_what_made_up_words_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = [Word("zorp", 9, ("eve",)), Word("and try", 5, ("ann",))]
    unknown = {"new": 0.1, "old": 0.2}

    def lost(_: Any, __: Any, policy: str, learned_by: str, hashes: list[str]) -> Any:
        assert learned_by == "new"
        return {word: {TURN: 0.3} for word in hashes}, unknown[policy]

    monkeypatch.setattr(triggers, "suspects", lambda *_: words)
    monkeypatch.setattr(triggers, "_lost", lost)
    place: Any = SimpleNamespace(open=lambda: None)
    contest: Any = None
    new, old = triggers.with_triggers.fn(place, contest, Evidence("new"), Evidence("old"))
    zorp, pair = (word.hash for word in words)
    assert new.lost == {zorp: {TURN: 0.3}, pair: {TURN: 0.3}} and new.said_by == {zorp: ("eve",), pair: ("ann",)}
    assert old.lost == {zorp: {TURN: pytest.approx(0.15)}, pair: {TURN: 0.3}}
