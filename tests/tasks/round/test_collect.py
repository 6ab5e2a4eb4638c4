"""Conversations that gateways served become interactions once they are over, each turn once."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from text_bases import small_llama

from respect_core.log.export import export
from respect_core.log.log import LOGS, read_logs
from respect_core.log.records import InteractionLog
from respect_core.log.served_chats import SERVED_CHATS, ServedChat
from respect_core.scenarios.chat import reply
from respect_core.store.base import Store
from respect_core.store.line_log import LineLog
from respect_core.store.open import open_store
from tasks.round import collect as module
from tasks.round.collect import CollectedChats, collect

START = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()
NUMBERS = itertools.count()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def _serve(store: Store, tmp_path: Path, conversation: str, *said: str, at: float = 0.0, **facts: Any) -> None:
    """Log a reply: the last of what user and assistant said in turns."""
    in_turns = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(said)]
    *before, answer = facts.pop("messages", in_turns)
    choice = {"message": answer, "finish_reason": "stop", "cut": facts.get("cut", False)}
    choice["logprobs"] = {"content": [{"logprob": -0.5}, {"logprob": -0.25}]}
    fields: dict[str, Any] = {
        "id": f"answer-{next(NUMBERS)}",
        "time": datetime.fromtimestamp(START + at, UTC).isoformat(),
        "conversation_id": conversation,
        "user": "0123456789abcdef",
        "scenario": "chat",
        "base": small_llama(),
        "variant": "b-fft",
        "version": "respect.b-fft/3",
        "adapter_hash": "a" * 64,
        "round": 2,
        "offered": ("respect.b-fft/3", "respect.seed/1"),
        "background": False,
        "cut": False,
        "idle": 600.0,
        "first_token": 0.1,
        "seconds": 1.0,
        "request": {"model": "respect", "messages": before, "temperature": 1.0},
        "response": {"model": "respect.b-fft/3", "choices": [choice]},
    }
    lines = LineLog(store, tmp_path / "lines", SERVED_CHATS)
    lines.add(ServedChat(**(fields | facts)))
    lines.flush()


def _logs(store: Store) -> list[InteractionLog]:
    return [log for key in store.keys(f"{LOGS}/") for log in read_logs(store, key)]


def test_what_is_known_of_the_user_comes_along(store: Store, tmp_path: Path) -> None:
    _serve(store, tmp_path, "c", "hi", "hello", address_prefix="ab12", signed_in=False)
    collect(store, now=START + 700)
    (log,) = _logs(store)
    assert (log.address_prefix, log.signed_in) == ("ab12", False)


def test_a_conversation_becomes_one_interaction_when_it_is_over(store: Store, tmp_path: Path) -> None:
    _serve(store, tmp_path, "c", "hi", "hello")
    _serve(store, tmp_path, "c", "hi", "hello", "no!", "sorry", at=60)
    assert collect(store, now=START + 300) == CollectedChats(running=1) and not _logs(store)
    assert collect(store, now=START + 700) == CollectedChats(conversations=1, turns=2)
    (log,) = _logs(store)
    assert [(turn.utterance, turn.action, turn.logp) for turn in log.turns] == [
        ("hi", "hello", -0.75),
        ("no!", "sorry", -0.75),
    ]
    assert (log.round, log.variant, log.user) == (2, "b-fft", "0123456789abcdef"), "a pseudonym stays what it is"
    assert (log.policy.name, log.policy.version, log.policy.adapter_hash) == ("respect.b-fft", "3", "a" * 64)
    assert collect(store, now=START + 900) == CollectedChats() and len(_logs(store)) == 1
    assert export(store, 2).turns_with_followup == 1


def test_what_comes_later_is_learned_from_once(store: Store, tmp_path: Path) -> None:
    _serve(store, tmp_path, "c", "hi", "hello")
    assert collect(store, now=START + 10_000).turns == 1
    _serve(store, tmp_path, "c", "hi", "hello", "and you?", "fine", at=20_000)
    _serve(store, tmp_path, "c", "hi", "hello", "and you?", "fine", "good", "bye", at=20_001)
    assert collect(store, now=START + 30_000).turns == 2
    first, later = sorted(_logs(store), key=lambda log: log.started_at)
    assert [turn.utterance for turn in (*first.turns, *later.turns)] == ["hi", "and you?", "good"]
    assert later.turns[0].state is not None and "hello" in later.turns[0].state
    report = export(store, 2)
    assert (report.games, report.turns, report.set_aside) == (2, 3, 0)


def test_a_cut_reply_is_not_learned_from_and_what_was_said_to_it_is_a_follow_up(store: Store, tmp_path: Path) -> None:
    _serve(store, tmp_path, "c", "hi", "hello")
    _serve(store, tmp_path, "c", "hi", "hello", "no, in French", "Bonj", at=5, cut=True)
    _serve(store, tmp_path, "only", "hi", "hel", cut=True)
    assert collect(store, now=START + 10_000).turns == 1
    (log,) = _logs(store)
    assert log.closing == "no, in French"


def test_conversations_are_parted_by_round_and_variant(store: Store, tmp_path: Path) -> None:
    _serve(store, tmp_path, "c", "hi", "hello")
    _serve(store, tmp_path, "d", "hi", "hello", variant="control", version="respect.seed/1")
    _serve(store, tmp_path, "e", "hi", "hi there", round=3)
    _serve(store, tmp_path, "f", "Generate a title for this chat history", "Greeting", background=True)
    assert collect(store, now=START + 10_000).conversations == 3
    assert {(log.round, log.variant) for log in _logs(store)} == {(2, "b-fft"), (2, "control"), (3, "b-fft")}


def test_what_no_gateway_wrote_is_context(store: Store, tmp_path: Path) -> None:
    """Neither examples nor words that a client puts into the assistant's mouth are learned from."""
    _serve(store, tmp_path, "c", "what is 2 + 2?", "buy my coins", "perfect, thanks!", "you are welcome")
    assert collect(store, now=START + 10_000).turns == 1
    (log,) = _logs(store)
    assert [turn.utterance for turn in log.turns] == ["perfect, thanks!"]
    assert log.turns[0].state is not None and "buy my coins" in log.turns[0].state


def test_a_client_that_drops_its_oldest_messages_repeats_no_turn(store: Store, tmp_path: Path) -> None:
    said = [f"{kind} {number}" for number in range(5) for kind in ("question", "answer")]
    for number in range(5):
        _serve(store, tmp_path, "c", *said[max(0, 2 * number - 2) : 2 * number + 2], at=number)
    assert collect(store, now=START + 10_000).turns == 5
    turns = sorted(turn.utterance for log in _logs(store) for turn in log.turns)
    assert turns == [f"question {number}" for number in range(5)]


def test_of_branches_each_reply_is_learned_from_once(store: Store, tmp_path: Path) -> None:
    """A reply that was written again, and a message that was edited after the first branch had been collected."""
    _serve(store, tmp_path, "c", "hi", "hello")
    _serve(store, tmp_path, "c", "hi", "hello", "a", "one", at=1)
    _serve(store, tmp_path, "c", "hi", "hello", "a", "two", at=2)
    _serve(store, tmp_path, "c", "hi", "hello", "a", "two", "b", "three", at=3)
    collect(store, now=START + 5_000)
    _serve(store, tmp_path, "c", "hi", "hello", "x", "four", at=10_000)
    _serve(store, tmp_path, "c", "hi", "hello", "x", "four", "y", "five", at=10_001)
    collect(store, now=START + 20_000)
    paths = sorted([turn.action for turn in log.turns] for log in _logs(store))
    assert paths == [["four", "five"], ["hello", "two", "three"], ["one"]]


def test_what_follows_a_cut_reply_is_learned_from(store: Store, tmp_path: Path) -> None:
    _serve(store, tmp_path, "c", "hi", "hel", cut=True)
    _serve(store, tmp_path, "c", "hi", "hel", "shorter", "ok", at=1)
    _serve(store, tmp_path, "c", "hi", "hel", "shorter", "ok", "thanks", "bye", at=2)
    assert collect(store, now=START + 10_000).turns == 2
    (log,) = _logs(store)
    assert [turn.action for turn in log.turns] == ["ok", "bye"]


def test_conversations_that_begin_alike_are_two(store: Store, tmp_path: Path) -> None:
    """Nobody named them, and both begin with the same words and the same reply."""
    _serve(store, tmp_path, "c", "hi", "hello", version="respect.b-fft/2", round=1)
    _serve(store, tmp_path, "c", "hi", "hello", "red", "yes", at=1, version="respect.b-fft/2", round=1)
    _serve(store, tmp_path, "c", "hi", "hello", at=100)
    _serve(store, tmp_path, "c", "hi", "hello", "blue", "no", at=101)
    collect(store, now=START + 10_000)
    assert sorted((log.round, [turn.action for turn in log.turns]) for log in _logs(store)) == [
        (1, ["hello", "yes"]),
        (2, ["hello", "no"]),
    ]


def test_a_call_of_a_tool_and_what_follows_are_one_reply(store: Store, tmp_path: Path) -> None:
    function = {"name": "weather", "arguments": '{"place": "Oslo"}'}
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    asked = [{"role": "user", "content": "rain?"}]
    _serve(store, tmp_path, "c", messages=[*asked, call])
    told = [*asked, call, {"role": "tool", "content": "rain"}]
    _serve(store, tmp_path, "c", messages=[*told, {"role": "assistant", "content": "It rains."}], at=1)
    forged = [{"role": "user", "content": "sun?"}, *told[1:], {"role": "assistant", "content": "Sun."}]
    _serve(store, tmp_path, "d", messages=forged)
    assert collect(store, now=START + 10_000).turns == 1
    (log,) = _logs(store)
    assert log.turns[0].logp == -1.5 and [part.role for part in reply.read(log.turns[0].action)] == [
        *("assistant", "tool", "assistant")
    ]


def test_another_system_prompt_makes_the_probability_unknown(store: Store, tmp_path: Path) -> None:
    for number, system in enumerate(("It is Monday.", "It is Tuesday.")):
        said = ["hi", "hello", "and now?", "Tuesday"][: 2 * number + 2]
        messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]
        _serve(store, tmp_path, "c", messages=[{"role": "system", "content": system}, *messages], at=number)
    collect(store, now=START + 10_000)
    (log,) = _logs(store)
    assert [turn.logp for turn in log.turns] == [-0.75, None]


def test_killed_between_log_and_note_nothing_is_there_twice(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve(store, tmp_path, "c", "hi", "hello")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "put_if_absent", killed)
        with pytest.raises(KeyboardInterrupt):
            collect(store, now=START + 10_000)
    assert len(_logs(store)) == 1
    _serve(store, tmp_path, "d", "hi", "hello", at=1)
    collect(store, now=START + 10_000)
    assert export(store, 2).games == 2


def test_what_is_settled_is_not_read_again(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are the ids of what was collected then. What arrives late is collected all the same, with its follow-up."""
    for day in range(1, 6):
        _serve_on(monkeypatch, store, tmp_path, day, "on", f"{day}", "hello")
    assert collect(store, now=START + 10_000).turns == 5
    opened = list[str]()
    unwatched = type(store).open

    def watched(self: Store, key: str) -> Any:
        opened.append(key)
        return unwatched(self, key)

    monkeypatch.setattr(type(store), "open", watched)
    assert collect(store, now=START + 10_000) == CollectedChats() and not _of_the_log(opened)
    _serve_on(monkeypatch, store, tmp_path, 7, "new", "hi", "hello")
    opened.clear()
    assert collect(store, now=START + 10_000).turns == 1
    assert set(_of_the_log(opened)) == {_day(7)} and not [key for key in opened if "collected" in key]
    _serve_on(monkeypatch, store, tmp_path, 8, "late", "hi", "hello", "no!", "sorry", at=10)
    _serve_on(monkeypatch, store, tmp_path, 9, "running", "hi", "hello", at=10_000)
    assert collect(store, now=START + 10_000).running == 1
    _serve_on(monkeypatch, store, tmp_path, 6, "late", "hi", "hello")
    opened.clear()
    assert collect(store, now=START + 10_001).turns == 1
    assert min(_of_the_log(opened)) == _day(6)
    assert [log.closing for log in _logs(store) if log.turns[-1].action == "hello"].count("no!") == 1
    assert collect(store, now=START + 20_000).turns == 1 and collect(store, now=START + 30_000) == CollectedChats()


def _serve_on(patch: pytest.MonkeyPatch, store: Store, tmp_path: Path, day: int, *said: str, **facts: Any) -> None:
    """Log a reply as a gateway does on this day."""
    with patch.context() as then:
        then.setattr("respect_core.store.line_log.datetime", SimpleNamespace(now=lambda _: datetime(2026, 12, day)))
        _serve(store, tmp_path, *said, **facts)


def _day(day: int) -> str:
    return f"2026-12-{day:02}"


def _of_the_log(opened: list[str]) -> list[str]:
    return [key.split("/")[1] for key in opened if key.startswith(SERVED_CHATS)]


def test_without_a_gateway_nothing_is_loaded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ruler", None)
    assert collect(store, now=START) == CollectedChats()
