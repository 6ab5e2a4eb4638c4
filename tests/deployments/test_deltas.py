"""Text and calls of tools, parted while they are written."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.serving.gateway.deltas import Deltas
from respect_core.scenarios.chat import reply

LINES = st.sampled_from(
    ["", "hello", "CALL", "CALL ", "C", 'CALL {"name": "f", "arguments": {"x": 1}}', "CALL {}", "CALL {bad", " CALL x"]
)


def _fed(text: str, cuts: list[int], *, tools: bool) -> tuple[Deltas, list[dict[str, Any]]]:
    deltas, places = Deltas(tools=tools), [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    made = [d for a, b in pairwise(places) for d in deltas.feed(text[a:b])]
    return deltas, [*made, *deltas.end()]


@given(st.lists(LINES, max_size=6), st.lists(st.integers(0, 120), max_size=9))
def test_pieces_make_the_message_whatever_their_size(lines: list[str], cuts: list[int]) -> None:
    deltas, made = _fed("\n".join(lines), cuts, tools=True)
    calls = [line for line in lines if reply.called(line)]
    assert "".join(each.get("content", "") for each in made) == deltas.content
    assert deltas.content == "\n".join(line for line in lines if not reply.called(line))
    assert len(deltas.calls) == len(calls) and deltas.part().calls == tuple(c.removeprefix("CALL ") for c in calls)


@given(st.text(max_size=60), st.lists(st.integers(0, 60), max_size=9))
def test_without_tools_all_is_text(text: str, cuts: list[int]) -> None:
    deltas, made = _fed(text, cuts, tools=False)
    assert "".join(each["content"] for each in made) == text == deltas.content and not deltas.calls


def test_text_is_not_held_back_for_a_call_that_it_cannot_be() -> None:
    deltas = Deltas(tools=True)
    assert [list(deltas.feed(piece)) for piece in ("Cer", "tain", "ly\nC", "ALL")] == [
        [{"content": "Cer"}],
        [{"content": "tain"}],
        [{"content": "ly"}],
        [],
    ]
    assert list(deltas.end()) == [{"content": "\nCALL"}]


@pytest.mark.parametrize(
    "line", ['CALL {"name": 1, "arguments": {}}', 'CALL ["a"]', 'CALL {"name": "f"}', "CALL [" * 3]
)
def test_what_is_no_call_is_text(line: str) -> None:
    assert reply.called(line) is None
