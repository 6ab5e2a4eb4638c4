"""Real logs are read whole, where the shared data is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from respect_core.scenarios.chat.importers import Imported, read_conversations


@pytest.mark.parametrize(
    ("name", "format", "conversations", "turns", "follow_ups"),
    [("sharegpt_300.jsonl", "sharegpt", 300, 1194, 894), ("uss_dialogues.jsonl", "messages", 800, 7968, 7612)],
)
def test_real_conversations_are_all_usable(
    shared: Path, name: str, format: str, conversations: int, turns: int, follow_ups: int
) -> None:
    path = shared / "data" / "chat" / name
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    summary = Imported()
    results = list(read_conversations([path], imported=summary))
    assert summary.formats == {format: conversations} and not summary.set_aside
    assert (len(results), summary.turns, summary.follow_ups) == (conversations, turns, follow_ups)
    assert len({each.id for each in results}) == conversations
