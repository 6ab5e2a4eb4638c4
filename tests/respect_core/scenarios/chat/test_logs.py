"""Imported conversations as records of the log."""

from __future__ import annotations

import json

import pytest
from text_bases import small_llama

from respect_core.log.lengths import Ruler
from respect_core.log.log import RecordError, parse_record
from respect_core.log.records import from_log, turn_rows
from respect_core.model.base import load_processor
from respect_core.scenario import scenario
from respect_core.scenarios.chat.importers import ChatTurn, Conversation, Message, ToolCall
from respect_core.scenarios.chat.importers.conversation import Source
from respect_core.scenarios.chat.logs import Writer, curated, prompt


@pytest.fixture(scope="module")
def writer() -> Writer:
    return Writer(0, "seed", Ruler(load_processor(small_llama()), scenario("chat")))


def talk(*turns: ChatTurn, **changes: object) -> Conversation:
    fields: dict[str, object] = {
        "id": "c1",
        "user": "ann@example.org",
        "system": None,
        "tools": (),
        "turns": turns,
        "started_at": "2026-11-30T12:00:00+00:00",
        "language": None,
        "source": Source("log.jsonl", "line 1"),
    }
    return Conversation(**{**fields, **changes})  # type: ignore[arg-type]  # by name


def said(utterance: str, answer: str = "Sure.", **facts: object) -> ChatTurn:
    return ChatTurn(utterance, (Message("assistant", answer),), **facts)  # type: ignore[arg-type]  # by name


def test_a_record_holds_the_conversation_and_no_user(writer: Writer) -> None:
    log = writer.record(
        talk(said("hi", explicit=1, logprob=-3.5, model="gpt-x"), said("no, the other one"), system="Be brief.")
    )
    line = log.model_dump_json()
    assert "ann@example.org" not in line and "c1" not in json.loads(line)["interaction_id"].split("-")
    assert parse_record(line.encode()) == log
    first, second = turn_rows(log)
    assert (first["follow_up"], second["follow_up"]) == ("no, the other one", None)
    assert (first["explicit"], first["logp"], first["probability"]) == (1, -3.5, None)
    assert json.loads(first["state"]) == {"system": "Be brief."} and second["state"] == ""
    assert log.policy.name == "gpt-x"


def test_what_nobody_answered_is_still_a_follow_up(writer: Writer) -> None:
    for last in (ChatTurn("wrong again"), said("wrong again", "I am sor", cut=True)):
        log = writer.record(talk(said("hi"), last))
        assert len(log.turns) == 1 and turn_rows(log)[0]["follow_up"] == "wrong again"


def test_a_reply_with_tools_is_one_action(writer: Writer) -> None:
    reply = (
        Message("assistant", "", (ToolCall("weather", '{"city":"Oslo"}'),)),
        Message("tool", "sunny"),
        Message("assistant", "It is sunny."),
    )
    log = writer.record(talk(ChatTurn("weather in Oslo?", reply), said("thanks")))
    assert [each["role"] for each in json.loads(log.turns[0].action)] == ["assistant", "tool", "assistant"]
    unfinished = writer.record(talk(ChatTurn("weather in Oslo?", reply[:2]), said("thanks")))
    assert [each["role"] for each in json.loads(unfinished.turns[0].action)] == ["assistant"]


def test_a_long_conversation_is_cut_and_a_long_first_turn_set_aside(writer: Writer) -> None:
    long = [said("word " * 200, "answer " * 200) for _ in range(4)]
    log = writer.record(talk(*long))
    assert len(log.turns) == 2 and log.closing == long[2].utterance
    with pytest.raises(RecordError, match="the first turn has more than 1024 tokens"):
        writer.record(talk(said("word " * 1100)))
    with pytest.raises(RecordError, match="no whole reply to the first utterance"):
        writer.record(talk(ChatTurn("hello?"), said("anyone?")))


def test_curated_replies_are_targets(writer: Writer) -> None:
    log = curated(writer.record(talk(said("hi", "Hello."), said("and?", "And what?"))), [1])
    assert log.outcome is not None and log.outcome.targets == ["And what?"] and not log.outcome.success


def test_a_policy_is_asked_as_training_shows_it(writer: Writer) -> None:
    """The prompt of every turn is the beginning of the conversation that is learned from."""
    call = Message("assistant", "", (ToolCall("weather", '{"place": "Oslo"}', "call-1"),))
    tools = ('{"name": "weather"}',)
    whole = talk(
        ChatTurn("rain?", (call, Message("tool", "rain"), Message("assistant", "It rains."))),
        said("No  way!"),
        system="Be brief.",
        tools=tools,
        opening=(Message("user", "hi"), Message("assistant", "Hello!")),
    )
    learned = scenario("chat").messages(from_log(writer.record(whole)))
    asked = prompt(talk(ChatTurn("rain?"), system="Be brief.", tools=tools, opening=whole.opening))
    assert asked == learned[: len(asked)] and asked[-1]["role"] == "user"
    between = prompt(talk(ChatTurn("rain?", whole.turns[0].reply[:2]), **_same(whole)))
    assert between == learned[: len(between)] and between[-1]["role"] == "tool"
    assert prompt(talk(*whole.turns[:1], ChatTurn("No  way!"), **_same(whole))) == learned[:-1]


def _same(whole: Conversation) -> dict[str, object]:
    return {"system": whole.system, "tools": whole.tools, "opening": whole.opening}
