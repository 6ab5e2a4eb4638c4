"""The round on the terminal."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from reports import round_summary
from rich.console import Console

from tasks.reports.report import show
from tasks.round.decode import audit


@pytest.mark.parametrize(
    ("marked", "unreadable", "told"),
    [("role", 3, ["1 turns imitate a prompt", "3 turns have characters"]), (None, 0, [])],
)
def test_an_operator_is_told_of_odd_texts(marked: str | None, unreadable: int, told: list[str]) -> None:
    row: dict[str, Any] = {"interaction_id": "g", "turn": 0, "label": 1, "score": 1.0, "low_margin": False}
    rows = [
        row | {"decoder": kind, "marked": marked, "cut": False, "thresholds": "{}"} for kind in ("binary", "ternary")
    ]
    figures = audit(rows, {}, None, unreadable)
    summary = {"round": 1, "profile": "tiny", "games": 1, "turns": 2, "turns_with_followup": 1, "set_aside": 0}
    summary |= {"decoder": {kind: each.model_dump() for kind, each in figures.items()}, "variants": {}, "failed": {}}
    console = Console(record=True, width=200)
    show(summary, console)
    lines = [line for line in console.export_text().splitlines() if line[:1].isdigit()]
    assert len(lines) == len(told) and all(line.startswith(text) for line, text in zip(lines, told, strict=True))


def test_a_round_on_a_dozen_games_shows_intervals_and_that_they_are_too_little() -> None:
    summary = round_summary(games=12, positives=9)
    for values in summary["variants"].values():
        values["version"] = "3"
    confusion = {
        "positive": {"positive": 8, "neutral": 0, "negative": 3},
        "neutral": {"positive": 1, "neutral": 0, "negative": 2},
        "negative": {"positive": 1, "neutral": 0, "negative": 9},
    }
    binary = {"positive": 10, "neutral": 0, "negative": 14, "confusion": confusion, "cross_validated": None}
    summary |= {"profile": "tiny", "games": 12, "turns": 60, "turns_with_followup": 48, "set_aside": 0}
    summary |= {"decoder": {"binary": binary | {"turns_per_second": None}}}
    console = Console(width=80, file=StringIO())
    show(summary, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]  # the file is a StringIO
    shown = " ".join(text.replace("│", " ").split())
    assert "…" not in text  # nothing is cut
    assert "80.0% 72.7%" in shown and "[49.0, 94.3] [43.4, 90.3]" in shown  # Wilson's, of 8 in 10 and 8 in 11
    assert "45.6%" in shown and "[40.1, 51.0]" in shown and "4 of 342 3" in shown
    assert shown.count("too little (12)") == 6 and shown.count("too little (9)") == 2
    assert "B-FFT would not pass the gate: it learned from 9 turns." in shown
