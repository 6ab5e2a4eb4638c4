"""The round on the terminal."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from tasks.decode import audit
from tasks.report import show


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
