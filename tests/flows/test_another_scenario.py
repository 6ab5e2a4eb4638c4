"""A scenario that another package brings goes the whole way, with real parts: from the log to a reply of the server."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from here import record_workers
from policy_servers import serving
from small import smallest
from three_words import WORDS

from flows import parameters as parameters_module
from flows.parameters import RoundParameters
from flows.promote import promote
from flows.promotion_parameters import PromoteParameters
from flows.round import round as round_flow
from respect_core.learning import validation
from respect_core.log.log import append_logs, parse_record
from respect_core.log.records import InteractionLog, LoggedTurn, Outcome, PolicyIdentity
from respect_core.profiles import Profile
from respect_core.store.tables import read_table
from respect_core.training_data import curated
from respect_core.variants import Objective, Variant
from tasks.registry import registry
from tasks.support.workspace import Workspace, workspace

pytestmark = pytest.mark.timeout(600)

VARIANTS = [Variant.B_FFT, Variant.T_RL, Variant.B_KTO]
PLEASED, DISPLEASED = "yes that is right, thank you", "no, that is wrong"


def _words(name: str) -> Profile:
    """Enough steps for the base model, which has never written such a word, to write nothing else."""
    short: dict[str, Any] = {"max_steps": 40, "checkpoint_every": 40, "warmup_steps": 5}
    profile = replace(smallest("tiny"), name=name, scenario="three-words", simulated_people=False)
    fft = replace(profile.training[Objective.FFT], **short)  # answers below; the others only have to get through
    seed_training = replace(profile.seed_training, **short)
    return replace(profile, seed_training=seed_training, training=profile.training | {Objective.FFT: fft})


def _log(number: int, draw: random.Random) -> InteractionLog:
    wanted, turns = WORDS[number % len(WORDS)], []
    said = f"say {wanted}"
    for _ in range(3):
        action = draw.choice([wanted, wanted, *WORDS])
        turns.append(LoggedTurn(utterance=said, action=action, probability=0.5))
        said = PLEASED if action == wanted else DISPLEASED
    return InteractionLog(
        interaction_id=f"talk-{number}",
        scenario="three-words",
        round=0,
        variant="seed",
        policy=PolicyIdentity(name="somebody", version="unknown"),
        user=f"user-{number % 12}",
        started_at="2026-11-30T12:00:00",
        context=[],
        turns=turns,
        outcome=Outcome(targets=[wanted], success=turns[-1].action == wanted),
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """D0, the validation and gate sets, and thirty talks with somebody's policy."""
    made, draw = workspace(tmp_path_factory.mktemp("words")), random.Random(1)
    logs = [_log(number, draw) for number in range(95)]
    store = made.open()
    curated.add(store, curated.D0, logs[:15])
    curated.add(store, curated.VALIDATION, logs[15:30])
    append_logs(store, logs[30:60])
    curated.add(store, curated.GATE, logs[60:])
    return made


@pytest.fixture(scope="module")
def summary(place: Workspace, prefect_server: None) -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parameters_module, "named_profile", _words)
        patch.setattr(validation, "choose", lambda found: max(found, key=lambda one: one.step))
        record_workers(patch)
        yield round_flow(place, RoundParameters(round=0, profile="words", variants=VARIANTS))


def test_a_round_learns_from_its_log(place: Workspace, summary: dict[str, Any]) -> None:
    assert (summary["games"], summary["turns"], summary["set_aside"]) == (30, 90, 0)
    decoded = summary["decoder"]["binary"]
    assert decoded["positive"] > 0 and decoded["negative"] > 0
    for variant in VARIANTS:
        assert summary["variants"][variant]["val_turns"] > 0
        assert registry.latest(place, variant) is not None
    turns = read_table(place.open(), "turns").to_pylist()
    assert {row["scenario"] for row in turns} == {"three-words"} and {row["state"] for row in turns} == {""}


def test_a_record_that_is_none_of_its_scenario_is_told() -> None:
    line = _log(0, random.Random(0)).model_dump_json()
    wrong = line.replace('"action":"yes"', '"action":"select A"', 1)
    assert wrong != line
    with pytest.raises(ValueError, match=r"turns\[\d\].action: 'select A' is not one of yes, no, all"):
        parse_record(wrong.encode())
    with pytest.raises(ValueError, match="scenario: 'unheard-of' is not installed"):
        parse_record(line.replace("three-words", "unheard-of").encode())


def test_what_it_learned_passes_the_gate_and_answers(place: Workspace, summary: dict[str, Any]) -> None:
    asked = PromoteParameters(variant=Variant.B_FFT, user_share_cap=1.0, min_feedback_turns=1, margin=1.0, games=30)
    promoted = promote(place, asked)
    assert promoted.decision == "promoted", promoted
    request = {"scenario": "three-words", "variant": "b-fft", "game": "g", "context": [], "utterance": "say all"}
    with serving(place, variants=("b-fft",)) as running:
        reply = running.act(request).json()
        assert reply["action"] in WORDS and reply["legal"] and 0 < reply["probability"] <= 1
        assert reply["version"] == "respect.b-fft/1"
        again = running.act(request | {"turns": [{"utterance": "say all", "action": "perhaps"}]})
        assert again.status_code == 422 and again.json()["field"] == "turns[0].action"
