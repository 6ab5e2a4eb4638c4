"""A candidate that turns bad while users talk to it: ended by what they say, and by then only its share had met it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from gateways import Running, chat_profile, serving
from here import ByWord
from policy_servers import MODEL, SEED, begin_canary, registered, until
from typer.testing import CliRunner

from deployments.cli.main import app
from respect_core.feedback import decoder
from respect_core.log import served_chats
from respect_core.log.served_chats import ServedChat
from respect_core.release import canary_looks, ledger
from respect_core.release.canary import Plan
from respect_core.release.ledger import Action
from tasks.support.workspace import Workspace

pytestmark = pytest.mark.timeout(900)
TWO = f"{MODEL}/2"
BATCH, TURNS = 16, 32
"""Conversations between two looks; those after which the candidate turns bad."""


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    made = registered(tmp_path_factory.mktemp("canary"), chat_profile())
    yield made
    shutil.rmtree(made.root, ignore_errors=True)


def _talk(gateway: Running, name: str, *, model: str = "respect", complain: bool = False) -> str:
    """Hold a conversation of one reply and a follow-up; return who replied."""
    given: dict[str, Any] = {
        "model": model,
        "user": name,
        "max_tokens": 4,
        "extra_headers": {"x-conversation-id": name},
    }
    answer = gateway.say("hello", **given)
    said = "no, wrong" if complain and answer.system_fingerprint == TWO else "thanks"
    after = gateway.say("hello", answer.choices[0].message.content or "-", said, **given)
    assert after.system_fingerprint == answer.system_fingerprint
    return str(answer.system_fingerprint)


def _look(place: Workspace) -> str:
    time.sleep(1.0)  # until conversations are over, and logged
    done = CliRunner().invoke(app, ["canary", "--run", "main"])
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_a_candidate_that_turns_bad_is_ended_within_the_stated_conversations(
    place: Workspace, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "FeedbackDecoder", ByWord)
    monkeypatch.chdir(place.root.parents[1])
    plan = Plan(harm=0.5, margin=0.2)
    stated = TURNS + plan.finds_harm(0.5)
    with serving(place, variants=("b-fft",), idle=0.1) as gateway, ThreadPoolExecutor(4) as pool:

        def several(name: str, count: int, **given: Any) -> list[str]:
            return list(pool.map(lambda number: _talk(gateway, f"{name}-{number}", **given), range(count)))

        assert set(several("before", 4)) == {SEED}
        chat: dict[str, Any] = {"criterion": "follow-ups", "profile": "chat", "plan": plan, "most": 4 * stated}
        begun = begin_canary(place, 2, **chat)
        until(lambda: gateway.gateway.on_offer() == {("b-fft", SEED), ("b-fft", TWO)})
        talked, said = 0, ""
        while "certainly worse" not in said:
            assert talked < stated, said
            models = ("respect", "respect.b-fft")
            several(f"during-{talked}", BATCH, model=models[talked // BATCH % 2], complain=talked >= TURNS)
            talked += BATCH
            said = _look(place)
        until(lambda: gateway.gateway.on_offer() == {("b-fft", SEED)})
        assert set(several("after", 8)) == {SEED}
        assert "no canary is in force" in _look(place)
    assert talked > TURNS
    assert begun.canary is not None
    first: dict[str, ServedChat] = {}
    for each in served_chats.read(place.open()):
        met = first.setdefault(each.conversation_id, each)
        assert met.version == each.version, "a conversation keeps its version"
    assert len(first) == 4 + talked + 8
    during = {name: each for name, each in first.items() if set(each.offered) == {SEED, TWO}}
    assert len(during) == talked and all(not first[name].offered for name in first.keys() - during.keys())
    candidates = {name for name, each in first.items() if each.version == TWO}
    assert candidates == {name for name in during if begun.canary.chosen(name)} and 0 < len(candidates) < talked
    history = ledger.entries(place.open(), MODEL)
    assert [each.action for each in history] == [Action.CANARY, Action.END] and history[-1].to_version == SEED
    figures = canary_looks.read(place.open(), MODEL)[-1].figures
    assert figures is not None and figures.conversations <= stated
    assert figures.candidate_conversations == len(candidates) and figures.difference < -0.2
    shown = CliRunner().invoke(app, ["ledger", "b-fft", "--run", "main"]).output
    assert "certainly worse" in " ".join(shown.split())
