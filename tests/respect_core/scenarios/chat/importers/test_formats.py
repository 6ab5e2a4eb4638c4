"""A conversation that goes into a file of any format comes out of it the same."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from chat_logs import WRITERS, conversation, exchange, spoken, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from respect_core.scenarios.chat.importers import Conversation, Imported, Message, ToolCall, read_conversations
from respect_core.scenarios.chat.importers.detect import FORMATS

TOOL = json.dumps({"type": "function", "function": {"name": "light", "parameters": {}}})
CALL = Message("assistant", "", (ToolCall("light", '{"on": true}', "call-1"),))
RESULT = Message("tool", "done", tool_call_id="call-1")
TALK = conversation(
    exchange(
        "Turn on the lamp", CALL, Message("tool", "done", tool_call_id="call-1"), "It is on.", explicit=1, model="m1"
    ),
    exchange("No, the other one", "That one is on now.", explicit=-1, model="m1"),
    exchange("Thank you\n\nfür alles 🙂", "Gladly.", explicit=1, model="m1"),
    system="You run a home.",
    tools=(TOOL,),
)


def fitted(talk: Conversation, has: frozenset[str]) -> Conversation:
    """The conversation without what a format cannot hold."""
    turns = talk.turns
    if "calls" not in has:
        turns = tuple(
            replace(each, reply=tuple(m for m in each.reply if m.role == "assistant" and m.content)) for each in turns
        )
    if "unanswered" not in has:
        turns = tuple(each for each in turns if each.reply)
    return replace(talk, turns=turns, system=talk.system if "system" in has else None)


def facts(talk: Conversation, has: frozenset[str]) -> list[Any]:
    """What a format says about a conversation."""
    said: list[Any] = [spoken(turn) for turn in talk.turns]
    said += [(name, getattr(talk, name)) for name in ("id", "user", "system", "tools") if name in has]
    said += [[getattr(turn, name) for turn in talk.turns] for name in ("explicit", "model") if name in has]
    return said


def read(path: Path, **options: Any) -> list[Conversation]:
    return list(read_conversations([path], **options))


@pytest.mark.parametrize("name", WRITERS)
def test_a_conversation_comes_out_as_it_went_in(name: str, tmp_path: Path) -> None:
    writer = WRITERS[name]
    talk = fitted(TALK, writer.has)
    summary = Imported()
    (result,) = read(write(tmp_path / "log.json", writer.records(talk), writer.array), imported=summary)
    assert facts(result, writer.has) == facts(talk, writer.has)
    assert summary.formats == {name: 1} and not summary.set_aside
    assert (summary.turns, summary.follow_ups) == (3, 2)
    if "sampling" in writer.has:
        assert all(turn.sampling == {"temperature": 0.5} for turn in result.turns)
    if "language" in writer.has:
        assert summary.languages == {result.language: 1}


@pytest.mark.parametrize("name", WRITERS)
def test_a_format_may_be_named(name: str, tmp_path: Path) -> None:
    writer = WRITERS[name]
    path = write(tmp_path / "log.json", writer.records(fitted(TALK, writer.has)), writer.array)
    assert read(path, format=name) == read(path)


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(str.strip)
ARGUMENTS = st.dictionaries(st.text("abc", min_size=1), st.integers(0, 99) | TEXT, min_size=1, max_size=2)


@st.composite
def replies(draw: st.DrawFn) -> tuple[Message, ...]:
    answer = (Message("assistant", draw(TEXT)),)
    if not draw(st.booleans()):
        return answer
    call = ToolCall(draw(st.sampled_from(["light", "heat"])), json.dumps(draw(ARGUMENTS), ensure_ascii=False), "call-7")
    return (Message("assistant", "", (call,)), Message("tool", draw(TEXT), tool_call_id="call-7"), *answer)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    turns = [
        exchange(draw(TEXT), *draw(replies()), explicit=draw(st.sampled_from([1, -1])), model="m1")
        for _ in range(draw(st.integers(1, 4)))
    ]
    if draw(st.booleans()):
        turns.append(exchange(draw(TEXT)))
    return conversation(*turns, system=draw(st.none() | TEXT))


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(talk=conversations())
def test_any_conversation_comes_out_as_it_went_in(name: str, talk: Conversation) -> None:
    writer = WRITERS[name]
    talk = fitted(talk, writer.has)
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "log.jsonl", writer.records(talk), writer.array)
        (result,) = read(path, redact=False)
    assert facts(result, writer.has) == facts(talk, writer.has)


JUNK = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.none()) | st.just({}) | st.just([{}])
)


def paths_in(value: Any) -> list[list[Any]]:
    """Where each part of a JSON value is."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [[], *([key, *path] for key, each in items for path in paths_in(each))]


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_damaged_record_is_set_aside_or_read(name: str, data: st.DataObject) -> None:
    records = json.loads(json.dumps(WRITERS[name].records(fitted(TALK, WRITERS[name].has))))
    path = data.draw(st.sampled_from([each for each in paths_in(records) if each]))
    at: Any = records
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = data.draw(JUNK)
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    summary = Imported()
    with tempfile.TemporaryDirectory() as folder:
        results = read(write(Path(folder) / "log.jsonl", [*records, good]), imported=summary)
    assert results and summary.records == len(records) + 1
    json.dumps([asdict(each) for each in results]).encode()
    assert str(summary)


def test_formats_mix_in_a_folder(tmp_path: Path) -> None:
    for number, (name, writer) in enumerate(WRITERS.items()):
        first = replace(TALK.turns[0], utterance=f"Turn on lamp {number}")
        talk = fitted(replace(TALK, id=f"c{number}", turns=(first, *TALK.turns[1:])), writer.has)
        write(tmp_path / f"{name}.jsonl", writer.records(talk))
    (tmp_path / "README.md").write_text("not a log")
    summary = Imported()
    results = read(tmp_path, imported=summary)
    assert summary.formats == dict.fromkeys(WRITERS, 1)
    assert len(results) == len(WRITERS) and not summary.set_aside


def test_there_are_fourteen() -> None:
    assert set(WRITERS) == {each.name for each in FORMATS} and len(WRITERS) == 14
