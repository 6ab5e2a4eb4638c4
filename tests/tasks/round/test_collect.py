"""Conversations that gateways served become interactions once they are over, each turn once."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from text_bases import small_llama

from respect_core.log.export import export
from respect_core.log.log import LOGS, read_logs
from respect_core.log.records import InteractionLog
from respect_core.log.served_chats import SERVED_CHATS, ServedChat
from respect_core.profiles import Profile
from respect_core.profiles import profile as named_profile
from respect_core.store.base import Store
from respect_core.store.line_log import LineLog
from respect_core.store.open import open_store
from tasks.round import collect as module
from tasks.round.collect import CollectedChats, collect

START = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def profile() -> Profile:
    return replace(named_profile("chat"), base=small_llama())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def _serve(store: Store, tmp_path: Path, conversation: str, *said: str, at: float = 0.0, **facts: Any) -> None:
    """Log a reply: the last of what user and assistant said in turns."""
    *before, answer = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(said)]
    choice = {"message": answer, "finish_reason": "stop", "cut": facts.get("cut", False)}
    choice["logprobs"] = {"content": [{"logprob": -0.5}, {"logprob": -0.25}]}
    fields: dict[str, Any] = {
        "id": f"answer-{next(NUMBERS)}",
        "time": datetime.fromtimestamp(START + at, UTC).isoformat(),
        "conversation_id": conversation,
        "user": "0123456789abcdef",
        "variant": "b-fft",
        "version": "respect.b-fft/3",
        "adapter_hash": "a" * 64,
        "round": 2,
        "random": True,
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


def test_a_conversation_becomes_one_interaction_when_it_is_over(store: Store, tmp_path: Path, profile: Profile) -> None:
    _serve(store, tmp_path, "c", "hi", "hello")
    _serve(store, tmp_path, "c", "hi", "hello", "no!", "sorry", at=60)
    assert collect(store, profile, now=START + 300) == CollectedChats(running=1) and not _logs(store)
    assert collect(store, profile, now=START + 700) == CollectedChats(conversations=1, turns=2)
    (log,) = _logs(store)
    assert [(turn.utterance, turn.action, turn.logp) for turn in log.turns] == [
        ("hi", "hello", -0.75),
        ("no!", "sorry", -0.75),
    ]
    assert (log.round, log.variant, log.user) == (2, "b-fft", "0123456789abcdef"), "a pseudonym stays what it is"
    assert (log.policy.name, log.policy.version, log.policy.adapter_hash) == ("respect.b-fft", "3", "a" * 64)
    assert collect(store, profile, now=START + 900) == CollectedChats() and len(_logs(store)) == 1
    assert export(store, 2).turns_with_followup == 1


def test_what_comes_later_is_learned_from_once(store: Store, tmp_path: Path, profile: Profile) -> None:
    _serve(store, tmp_path, "c", "hi", "hello")
    assert collect(store, profile, now=START + 10_000).turns == 1
    _serve(store, tmp_path, "c", "hi", "hello", "and you?", "fine", at=20_000)
    _serve(store, tmp_path, "c", "hi", "hello", "and you?", "fine", "good", "bye", at=20_001)
    assert collect(store, profile, now=START + 30_000).turns == 2
    first, later = sorted(_logs(store), key=lambda log: log.started_at + str(len(log.turns)))
    assert [turn.utterance for turn in (*first.turns, *later.turns)] == ["hi", "and you?", "good"]
    assert later.turns[0].state is not None and "hello" in later.turns[0].state
    report = export(store, 2)
    assert (report.games, report.turns, report.set_aside) == (2, 3, 0)


def test_a_cut_reply_is_not_learned_from_and_what_was_said_to_it_is_a_follow_up(
    store: Store, tmp_path: Path, profile: Profile
) -> None:
    _serve(store, tmp_path, "c", "hi", "hello")
    _serve(store, tmp_path, "c", "hi", "hello", "no, in French", "Bonj", at=5, cut=True)
    _serve(store, tmp_path, "only", "hi", "hel", cut=True)
    assert collect(store, profile, now=START + 10_000).turns == 1
    (log,) = _logs(store)
    assert log.closing == "no, in French"


def test_conversations_are_parted_by_round_and_variant(store: Store, tmp_path: Path, profile: Profile) -> None:
    _serve(store, tmp_path, "c", "hi", "hello")
    _serve(store, tmp_path, "d", "hi", "hello", variant="control", version="respect.seed/1")
    _serve(store, tmp_path, "e", "hi", "hi there", round=3)
    _serve(store, tmp_path, "f", "Generate a title for this chat history", "Greeting", background=True)
    assert collect(store, profile, now=START + 10_000).conversations == 3
    assert {(log.round, log.variant) for log in _logs(store)} == {(2, "b-fft"), (2, "control"), (3, "b-fft")}


def test_killed_between_log_and_note_nothing_is_there_twice(
    store: Store, tmp_path: Path, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve(store, tmp_path, "c", "hi", "hello")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "put_if", killed)
        with pytest.raises(KeyboardInterrupt):
            collect(store, profile, now=START + 10_000)
    assert len(_logs(store)) == 1
    _serve(store, tmp_path, "d", "hi", "hello", at=1)
    collect(store, profile, now=START + 10_000)
    assert export(store, 2).games == 2


def test_without_a_gateway_nothing_is_loaded(store: Store, profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "scenario", None)
    assert collect(store, profile, now=START) == CollectedChats()
