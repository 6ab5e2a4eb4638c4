"""What users say to the gateway: compared by version while it serves, and in the log of the next round."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from gateways import Running, chat_profile, serving
from here import ByWord, record_workers
from policy_servers import MODEL, SEED, promote, registered, until
from typer.testing import CliRunner

from deployments.cli.main import app
from deployments.serving.gateway.live import Live
from flows.entrypoints import next_round
from flows.parameters import NextRoundParameters
from flows.round import round as round_flow
from respect_core.errors import ExpectedError
from respect_core.feedback import decoder
from respect_core.log import served_chats
from respect_core.store.tables import read_table
from respect_core.variants import Variant
from tasks.round.next_round import NewInteractions
from tasks.support.workspace import Workspace, workspace

pytestmark = pytest.mark.timeout(600)
USERS = 24


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Where users have talked to b-fft's second version, which they dislike, and to control, the seed policy."""
    made = registered(tmp_path_factory.mktemp("loop"), chat_profile())
    promote(made, 2)
    with serving(made, variants=("b-fft", "control"), idle=0.1) as gateway:
        until(lambda: gateway.http.get("/ready").json()["variants"]["b-fft"]["version"] == f"{MODEL}/2")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: _talk(gateway, number), range(USERS)))
        gateway.say("hi", model="respect.b-fft", user="who-chose", extra_headers={"x-conversation-id": "chosen"})
    time.sleep(0.2)  # until conversations are over
    yield made


def _talk(gateway: Running, number: int) -> None:
    said = ["hello"]
    for _ in range(2):
        answer: Any = gateway.say(*said, user=f"user-{number}", extra_headers={"x-conversation-id": f"chat-{number}"})
        complaint = answer.system_fingerprint == f"{MODEL}/2"
        said += [answer.choices[0].message.content or "-", "no, wrong" if complaint else "thanks"]


def test_versions_are_compared_by_what_users_said(
    place: Workspace, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "FeedbackDecoder", ByWord)
    monkeypatch.setattr("flows.compare.named_profile", lambda _: chat_profile())
    monkeypatch.chdir(place.root.parents[1])
    done = CliRunner().invoke(app, ["compare", "respect.b-fft/2", "seed", "--live", "--run", "main"])
    assert done.exit_code == 0, done.output
    assert "negative" in done.output and "conversations" in done.output
    found = json.loads((place.root / "live-respect.b-fft-2-respect.seed-1.json").read_text())
    assert sum(found["conversations"]) == USERS, "without the one whose client chose"
    assert found["negative_difference"]["value"] == -1.0 and found["positive_difference"]["low"] > 0.5
    again = CliRunner().invoke(app, ["compare", "respect.b-fft/1", "seed", "--live", "--run", "main"])
    assert again.exit_code == 1 and "no follow-up to respect.b-fft/1" in (" ".join(again.output.split()))


def test_the_operator_sees_the_same_once_they_are_decoded(
    place: Workspace, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`respect decode` does what the next round would; the figures are those of `respect compare --live`."""
    record_workers(monkeypatch)
    monkeypatch.setattr(decoder, "FeedbackDecoder", ByWord)
    monkeypatch.setattr("flows.decode.named_profile", lambda _: chat_profile())
    monkeypatch.chdir(place.root.parents[1])
    live = Live(place.open(), lambda: {("b-fft", f"{MODEL}/2"), ("control", SEED)})
    live.compute()
    assert live.evidence is not None and live.evidence.decoder is None
    assert sum(each.waiting for each in live.evidence.versions) == USERS
    done = CliRunner().invoke(app, ["decode", "--run", "main"])
    assert done.exit_code == 0 and "positive follow-ups" in done.output, done.output
    live.compute()
    (pair,) = live.evidence.pairs
    found = json.loads((place.root / "live-respect.b-fft-2-respect.seed-1.json").read_text())
    assert pair.versions == (SEED, f"{MODEL}/2") and list(pair.conversations) == found["conversations"][::-1]
    assert pair.compared is not None and pair.compared.needed == found["needed"]
    assert pair.compared.negative_difference.value == -found["negative_difference"]["value"] == 1.0
    assert not any(each.waiting for each in live.evidence.versions) and live.evidence.decoder is not None
    signs = {each.version: each.signs for each in live.evidence.versions}
    assert signs[SEED]["negative"] == 0 < signs[SEED]["positive"] and signs[f"{MODEL}/2"]["positive"] == 0
    samples = {(each.name, *each.labels.values()): each.value for metric in live.collect() for each in metric.samples}
    for name in ("respect_follow_up_share", "respect_follow_up_share_low", "respect_follow_up_share_high"):
        assert samples[name, "b-fft", f"{MODEL}/2", "negative"] == 1.0
    assert samples["respect_follow_ups", "control", SEED, "positive"] == signs[SEED]["positive"]


def test_the_next_round_has_the_conversations(
    place: Workspace, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.entrypoints.from_environment", lambda: place)
    monkeypatch.setattr("flows.parameters.named_profile", lambda _: chat_profile())
    state = next_round(NextRoundParameters(profile="chat", variants=[Variant.B_FFT], minimum=10_000), return_state=True)
    assert "not enough new interactions" in str(state.message)
    turns = read_table(place.open(), "turns").to_pylist()
    served = {chat.conversation_id for chat in served_chats.read(place.open())}
    assert len({turn["interaction_id"] for turn in turns}) == len(served) == USERS + 1
    assert {turn["policy_name"] + "/" + turn["policy_version"] for turn in turns} == {f"{MODEL}/2", SEED}
    assert sum(turn["follow_up"] is not None for turn in turns) == USERS


def test_the_next_round_collects_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not again in the round that it starts. Without Prefect: what is around this is stood in for."""
    collected = list[Workspace]()

    def stop(*_: Any) -> None:
        raise ExpectedError("far enough")

    for flow in ("flows.entrypoints", "flows.round"):
        monkeypatch.setattr(f"{flow}.collect_chats", collected.append)
        monkeypatch.setattr(f"{flow}.label_run", lambda *_, **__: None)
    enough = NewInteractions(round=0, wanted=1, found={})
    here: dict[str, Any] = {
        "from_environment": lambda: workspace(tmp_path),
        "find_next_round": lambda *_: 0,
        "export_interactions": lambda *_: None,
        "count_new": lambda *_: enough,
        "round": round_flow.fn,
    }
    for name, stand_in in here.items():
        monkeypatch.setattr(f"flows.entrypoints.{name}", stand_in)
    for name, stand_in in {"in_turn": nullcontext, "seed_policy": lambda *_: None, "export_interactions": stop}.items():
        monkeypatch.setattr(f"flows.round.{name}", stand_in)
    with pytest.raises(ExpectedError, match="far enough"):
        next_round.fn(NextRoundParameters(profile="chat", variants=[Variant.B_FFT]))
    assert len(collected) == 1
