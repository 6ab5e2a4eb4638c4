"""The audit of decoded feedback."""

from __future__ import annotations

import json

import pytest

from respect_core import utterances
from respect_core.profiles import PROFILES
from tasks.round.decode import audit, decoder_config, decoder_identity


def _row(game: str, turn: int, label: int, score: float) -> dict[str, object]:
    return {
        "interaction_id": game,
        "turn": turn,
        "decoder": "binary",
        "label": label,
        "score": score,
        "low_margin": abs(score) < 0.25,
        "marked": None,
        "cut": False,
        "thresholds": json.dumps({"positive": 0.0}),
    }


ROWS = [
    _row("a", 0, 1, 2.0),
    _row("a", 1, 1, 0.1),
    _row("b", 0, -1, -1.0),
    _row("b", 1, -1, -0.2),
    _row("c", 0, 1, 1.0),
]


def test_precision_and_recall_of_positives_count_a_partly_right_turn_as_wrong() -> None:
    actual = {("a", 0): 1, ("a", 1): 0, ("b", 0): -1, ("b", 1): 1, ("c", 0): 1}
    figures = audit(iter(ROWS), actual, speed=7.0)["binary"]
    assert (figures.positive, figures.neutral, figures.negative, figures.low_margin) == (3, 0, 2, 2)
    assert figures.precision == 2 / 3
    assert figures.recall == 2 / 3
    assert figures.confusion is not None and figures.confusion["neutral"]["positive"] == 1
    assert figures.turns_per_second == 7.0


def test_what_was_marked_and_cut_is_counted() -> None:
    rows = [{**row, "marked": "role" if row["turn"] else None, "cut": row["interaction_id"] == "a"} for row in ROWS]
    figures = audit([*rows, {**rows[1], "decoder": "ternary", "cut": None}], {}, speed=None, unreadable=4)
    assert [(each.marked, each.cut, each.unreadable) for each in figures.values()] == [(2, 2, 4), (1, 0, 4)]
    assert audit(ROWS, {}, speed=None)["binary"].unreadable is None


def test_without_targets_there_are_counts_alone() -> None:
    figures = audit(ROWS, {}, speed=None)["binary"]
    assert figures.positive == 3
    assert figures.precision is figures.recall is figures.confusion is figures.cross_validated is None


def test_labels_are_compared_with_thumbs() -> None:
    figures = audit(ROWS, {}, None, thumbs={("a", 0): 1, ("a", 1): -1, ("b", 0): -1, ("b", 9): 1})["binary"]
    assert figures.thumbs is not None and (figures.thumbs["turns"], figures.thumbs["thumbs_down"]) == (3, 2)
    found = [figures.thumbs[name]["value"] for name in ("agreement", "precision_negative", "recall_negative")]
    assert found == pytest.approx([2 / 3, 1.0, 0.5])
    assert figures.thumbs["recall_negative"]["low"] <= 0.5 <= figures.thumbs["recall_negative"]["high"]
    assert audit(ROWS, {}, None)["binary"].thumbs is None
    assert audit(ROWS, {}, None, thumbs={("a", 0): 1})["binary"].thumbs["precision_negative"] is None


def test_the_decoders_are_told_apart() -> None:
    figures = audit([*ROWS, {**ROWS[0], "decoder": "ternary", "label": 0}], {}, speed=None)
    assert (figures["ternary"].positive, figures["ternary"].neutral) == (0, 1)
    assert (figures["binary"].positive, figures["binary"].neutral) == (3, 0)


def test_other_rules_for_text_decode_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    config = decoder_config(PROFILES["tiny"]())
    before = decoder_identity(config)
    monkeypatch.setattr(utterances, "RULES", "another")
    assert decoder_identity(config) != before


def test_a_profile_names_its_decoder() -> None:
    assert {decoder_config(profile()).name for profile in PROFILES.values()} == {
        "SmolLM2-135M-Instruct",
        "HuggingFaceM4/idefics2-8b",
    }
