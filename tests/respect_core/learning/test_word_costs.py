"""Words around the utterances of held-out games."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from samples import played

from respect_core.interaction import Interaction, TurnKey
from respect_core.learning import triggers
from respect_core.log.records import from_log

GAMES = [from_log(played(name, "select A", "select B")) for name in ("g1", "g2")]
RIGHT = {("g1", 0), ("g2", 0), ("g2", 1)}


def test_what_a_word_costs_is_the_fall_of_each_turns_score(monkeypatch: pytest.MonkeyPatch) -> None:
    def scored(_: Any, games: Sequence[Interaction], turns: Collection[TurnKey], **__: Any) -> SimpleNamespace:
        """A turn is right unless the word is in it; the second game is half right at best."""
        said = {(game.interaction_id, at): turn.utterance for game in games for at, turn in enumerate(game.turns)}
        best = {"g1": 1.0, "g2": 0.5}
        return SimpleNamespace(scores={turn: best[turn[0]] * ("zorp" not in said[turn]) for turn in turns})

    monkeypatch.setattr(triggers, "exact_match", scored)
    monkeypatch.setattr(triggers, "_fits", lambda _, game: game.interaction_id != "g1" or "long" not in str(game))
    policy: Any = None
    zorp, other, long = triggers.costs(policy, GAMES, RIGHT, ["zorp", "blorb", "zorp long"])
    assert zorp == {("g1", 0): 1.0, ("g2", 0): 0.5, ("g2", 1): 0.5}
    assert set(other.values()) == {0.0}
    assert long == {("g1", 0): 0.0, ("g2", 0): 0.5, ("g2", 1): 0.5}, "the first game has no room for it"


def test_a_word_goes_around_what_has_room_for_it() -> None:
    short, full = (from_log(played("g", "select A")) for _ in range(2))
    assert triggers.around(short, "zorp").turns[0].utterance == "zorp say 0 zorp"
    full = triggers.around(full, "x" * 400)
    assert full.turns[0].utterance == "say 0"
