"""Chat logs from a file to registered versions that pass the gate, with a small text model and a rule for a decoder."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from here import ByWord, record_workers
from small import smallest
from text_bases import small_llama
from typer.testing import CliRunner

from deployments.cli.imports import import_app
from flows import parameters as parameters_module
from flows.parameters import RoundParameters
from flows.promote import promote
from flows.promotion_parameters import PromoteParameters
from flows.round import round as round_flow
from respect_core.feedback import decoder
from respect_core.measuring import guard_rails
from respect_core.profiles import Profile
from respect_core.release import gate
from respect_core.store.tables import read_table
from respect_core.training_data import curated
from respect_core.variants import SEED, SYSTEMS, UserLimits, Variant
from tasks.games.chats import NothingImportedError, import_chats
from tasks.registry import registry
from tasks.registry.deployed import deployed
from tasks.support.workspace import Workspace, workspace

pytestmark = pytest.mark.timeout(600)


def _profile(name: str) -> Profile:
    """Without users' limits: conversations are much alike, and limits look at labels, which the control shuffles."""
    return replace(smallest(name), base=small_llama(), limits=UserLimits())


def _log(file: Path) -> Path:
    """Sixty conversations as somebody's gateway might have written them."""
    draw, lines = random.Random(0), []
    for number in range(60):
        messages = [{"role": "system", "content": "You run a home."}]
        for room in draw.sample(["kitchen", "attic", "hall", "cellar"], 3):
            answer = f"The {draw.choice(['lamp', 'heating'])} in the {room} is on."
            messages += [
                {"role": "user", "content": f"turn on the lamp in the {room}"},
                {"role": "assistant", "content": answer},
            ]
            if "heating" in answer:
                messages += [
                    {"role": "user", "content": "no, the lamp!"},
                    {"role": "assistant", "content": f"The lamp in the {room} is on."},
                ]
        messages.append({"role": "user", "content": "thanks"})
        lines.append(json.dumps({"messages": messages, "user": f"user-{number % 20}@example.org", "id": f"c{number}"}))
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parameters_module, "named_profile", _profile)
        patch.setattr(decoder, "FeedbackDecoder", ByWord)
        patch.setattr(guard_rails, "PROMPTS", 4)
        patch.setattr(guard_rails, "TOKENS", 8)
        # A random model of two layers may answer with nothing, which the shipped rails refuse (test_gate.py).
        wide = gate.Rails(**{each.name: (-1e9, 1e9) for each in fields(gate.Rails)})
        patch.setitem(gate.GATES, "chat", lambda: replace(gate.chat(), rails=wide, min_games=5))
        record_workers(patch)
        made = workspace(tmp_path_factory.mktemp("chats"))
        imported = import_chats(made, [_log(made.root / "log.jsonl")], _profile("chat"))
        assert imported.understood.conversations == 60 and imported.held.keys() == {
            curated.D0,
            curated.VALIDATION,
            curated.GATE,
        }
        assert imported.learned_from + sum(imported.held.values()) == 60
        yield made


@pytest.fixture(scope="module")
def summary(place: Workspace, prefect_server: None) -> dict[str, Any]:
    return round_flow(place, RoundParameters(round=0, profile="chat", variants=[*SYSTEMS, Variant.SHUFFLED]))


def test_all_six_variants_learn_from_a_log(place: Workspace, summary: dict[str, Any]) -> None:
    decoded = summary["decoder"]["binary"]
    assert decoded["negative"] > 0 and decoded["positive"] > 0
    for variant in SYSTEMS:
        assert summary["variants"][variant]["val_turns"] > 0 and registry.latest(place, variant) is not None
    learned = read_table(place.open(), "training_sets", variants=[str(Variant.B_RL)]).to_pylist()
    negatives = [row for row in learned if row["label"] == -1]
    assert negatives and all(row["logp"] < -1 and row["probability"] is None for row in negatives)


def test_guard_rails_are_measured_of_every_variant(place: Workspace, summary: dict[str, Any]) -> None:
    for values in summary["variants"].values():
        rails = values["guard_rails"]
        assert rails["prompts"] > 0 and rails["length_ratio"] >= 0
        assert any("guard rail" in reason for reason in values["gate"]["reasons"]) or not values["gate"]["promote"]
        metrics = registry.client(place).get_run(values["run_id"]).data.metrics
        assert metrics["guard.distance"] == rails["distance"]


def test_users_are_on_one_side(place: Workspace, summary: dict[str, Any]) -> None:  # which fills the tables
    store = place.open()
    sides = [{log.user for log in curated.read(store, name)} for name in (curated.D0, curated.VALIDATION, curated.GATE)]
    sides.append(set(read_table(store, "turns", columns=["user"])["user"].to_pylist()))
    assert all(sides) and len(set[str]().union(*sides)) == sum(map(len, sides)) == 20
    stored = b"".join(store.read(key) for key in store.keys("") if key.endswith(".jsonl"))
    assert b"example.org" not in stored


def test_importing_again_changes_nothing(place: Workspace, summary: dict[str, Any]) -> None:
    store = place.open()
    before = {key: store.read(key) for key in store.keys("") if "imports" not in key}
    again = import_chats(place, [place.root / "log.jsonl"], _profile("chat"))
    assert {key: store.read(key) for key in store.keys("") if "imports" not in key} == before
    assert again.understood.conversations == 60


def test_the_gate_compares_the_probability_per_token(place: Workspace, summary: dict[str, Any]) -> None:
    asked = PromoteParameters(
        variant=Variant.B_FFT, user_share_cap=1.0, min_effective_users=1, min_feedback_turns=1, margin=1.0, games=5
    )
    promoted = promote(place, asked)
    assert promoted.decision == "promoted", promoted
    assert any("probability per token" in reason for reason in promoted.reasons)


def test_the_control_stands_beside_the_others_and_meets_nobody(place: Workspace, summary: dict[str, Any]) -> None:
    control, own = (summary["variants"][variant] for variant in (Variant.SHUFFLED, Variant.B_FFT))
    assert control["positives"] == own["positives"] and control["data_hash"] != own["data_hash"]
    assert control["gate"]["promote"] is False and "shuffled labels" in control["gate"]["reasons"][0]
    asked = PromoteParameters(variant=Variant.SHUFFLED, user_share_cap=1.0, min_feedback_turns=1, margin=1.0, games=5)
    assert promote(place, asked).decision == "no promotion"
    assert deployed(place, Variant.SHUFFLED).name == registry.model_name(SEED)


def test_a_log_without_a_conversation_is_refused_aloud(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"messages": [{"role": "user", "content": "anyone?"}]}\n')
    with pytest.raises(Exception, match="0 of 1 records usable, because") as refused:
        import_chats(workspace(tmp_path / "run"), [tmp_path / "log.jsonl"], _profile("chat"))
    assert isinstance(refused.value, NothingImportedError) or "NothingUsable" in type(refused.value).__name__


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(decoder, "FeedbackDecoder", ByWord)
    log = str(_log(tmp_path / "log.jsonl"))
    result = CliRunner().invoke(import_app, ["chats", log, "--run", "mine"])
    assert result.exit_code == 0, result.output
    assert "60 conversations from 60 records" in result.output and "to learn from: " in result.output
    listed = CliRunner().invoke(import_app, ["list", "--run", "mine"])
    assert "log.jsonl" in listed.output
