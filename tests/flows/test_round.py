"""A whole round, small: the embedded model, simulated speakers, SmolLM2, a real Prefect server, MLflow on SQLite."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from prefect.exceptions import PrefectException
from small import small
from transformers import AutoModelForImageTextToText, AutoProcessor

from flows.demo import demo
from flows.parameters import DemoParameters, RoundParameters
from flows.round import VariantsFailedError, why
from flows.round import round as round_flow
from respect_core import tiny
from respect_core.interaction import waiting
from respect_core.log.export import export
from respect_core.log.log import append_logs, read_logs
from respect_core.log.records import InteractionLog, from_log
from respect_core.measuring.evidence import gather
from respect_core.measuring.labels import right_turns
from respect_core.profiles import Profile
from respect_core.scenarios.multiref import prompt
from respect_core.scenarios.multiref.importers.games import UNKNOWN_POLICY
from respect_core.store.base import StoreError
from respect_core.store.images import load_images
from respect_core.training_data import curated
from respect_core.variants import Propensity, Variant
from tasks.compute import forks
from tasks.registry import registry
from tasks.registry.register import reference
from tasks.reports import page as report_page
from tasks.round.propensity import fill_propensities, read_probabilities
from tasks.support.workspace import Workspace, workspace

pytestmark = pytest.mark.timeout(1200)  # the round itself is in the set-up of the first test

VARIANTS = [Variant.B_FFT, Variant.T_RL, Variant.B_KTO]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return workspace(tmp_path_factory.mktemp("round"))


@pytest.fixture(scope="module")
def summary(place: Workspace, prefect_server: None, small_profile: None) -> dict[str, Any]:
    """Seed policy, ten games, one round of three variants, each replaying four games."""
    result: dict[str, Any] = demo(place, DemoParameters(games=10, replay=4, variants=VARIANTS))
    return result


def test_the_summary_has_its_documented_shape(place: Workspace, summary: dict[str, Any]) -> None:
    assert json.loads((place.root / "summary.json").read_text()) == summary
    assert (summary["round"], summary["profile"], summary["games"]) == (0, "tiny", 10)
    assert summary["turns_with_followup"] == summary["turns"] - summary["games"]
    for kind in ("binary", "ternary"):
        decoder = summary["decoder"][kind]
        assert decoder["positive"] + decoder["neutral"] + decoder["negative"] == summary["turns_with_followup"]
    assert summary["decoder"]["binary"]["neutral"] == 0
    assert set(summary["variants"]) == {"b-fft", "t-rl", "b-kto"}
    for name, values in summary["variants"].items():
        assert values["model"] == f"respect.{name}"
        assert 0 <= values["val_exact_match"] <= 1
        assert values["success_before"] is not None and values["success_after"] is not None
        assert values["step"] in (0, 2, 4)
        assert values["val_turns"] > 0 and values["played"]["games"] == 4
        low, high = values["gate"]["exact_match_ci95"]
        assert low <= values["val_exact_match"] <= high
        assert values["gate"]["promote"] is False
        reasons, figures = values["gate"]["reasons"], values["gate"]["figures"]
        if values["step"] == 0:
            assert "has the weights of respect.seed/1, which is deployed" in reasons[0]
        else:
            assert any("the gate asks for 100 turns" in reason for reason in reasons)
            assert figures["exact_match"] == values["val_exact_match"]
            assert figures["illegal_actions"] == values["illegal_actions"]
    assert summary["variants"]["b-fft"]["negatives_used"] == 0
    assert set(summary["seconds"]) == {"play", "export", "decode", "train", "total"}


def test_the_report_begins_with_the_candidates(place: Workspace, summary: dict[str, Any]) -> None:
    page = (place.root / "report" / "index.html").read_text()
    assert page.index("Candidates of round 0: 3, exact match") < page.index("B-KTO would not pass the gate:")
    assert page.index("B-KTO would not pass the gate:") < page.index("What was run")


def test_mlflow_compares_what_the_round_registered(place: Workspace, summary: dict[str, Any]) -> None:
    mlflow, experiment = registry.client(place), registry.experiment_id(place)
    for variant in VARIANTS:
        version = registry.latest(place, variant)
        assert version is not None and str(version.run_id) in summary["mlflow"]["side_by_side"]
    assert "side by side" in mlflow.get_experiment(experiment).tags["mlflow.note.content"]


def test_the_registry_tells_what_a_version_is_made_from(place: Workspace, summary: dict[str, Any]) -> None:
    mlflow = registry.client(place)
    version = mlflow.get_model_version_by_alias("respect.b-kto", registry.CANDIDATE)
    assert version.tags["round"] == "0"
    assert version.tags["data_hash"] == summary["variants"]["b-kto"]["data_hash"]
    assert version.tags["parent_version"].startswith("respect.seed/")
    child = mlflow.get_run(version.run_id)
    parent = mlflow.get_run(child.data.tags["mlflow.parentRunId"])
    assert parent.info.run_name == "round 0" and parent.info.status == "FINISHED"
    seeds = mlflow.search_runs([child.info.experiment_id], f"tags.mlflow.parentRunId = '{child.info.run_id}'")
    assert len(seeds) == 1
    assert len(mlflow.get_metric_history(seeds[0].info.run_id, "loss")) == 4
    assert "decoder-binary.png" in {each.path for each in mlflow.list_artifacts(parent.info.run_id)}


def test_plain_peft_and_transformers_reproduce_the_validation_figure(place: Workspace, summary: dict[str, Any]) -> None:
    """From the registry, with stock classes, pixels and greedy generation only."""
    version = registry.latest(place, "b-fft")
    assert version is not None
    files = registry.download(place, version)
    base = AutoModelForImageTextToText.from_pretrained(tiny.path())
    model = peft.PeftModel.from_pretrained(base, str(files)).eval()
    processor = AutoProcessor.from_pretrained(files)

    store = place.open()
    logs = curated.read(store, curated.VALIDATION)
    games, right = {log.interaction_id: from_log(log) for log in logs}, right_turns(logs)
    matches = 0
    for name, turn in sorted(right):
        game = waiting(games[name], turn)
        images = load_images(store, game.context)
        text = processor.apply_chat_template(prompt.messages(game), add_generation_prompt=True)
        inputs = processor(text=[text], images=[[images[each] for each in game.context]], return_tensors="pt")
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=10, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        written = processor.decode(ids, skip_special_tokens=True).strip()
        matches += written == games[name].turns[turn].action
    assert matches / len(right) == pytest.approx(summary["variants"]["b-fft"]["val_exact_match"])


def test_running_the_round_again_trains_and_registers_nothing_new(
    place: Workspace, summary: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a worker was started")

    statuses = []

    def gathered(*arguments: Any, **options: Any) -> Any:
        mlflow = registry.client(place)
        runs = mlflow.search_runs([registry.experiment_id(place)], "attributes.run_name = 'round 0'")
        statuses.append(runs[0].info.status)  # the newest
        return gather(*arguments, **options)

    monkeypatch.setattr(report_page, "gather", gathered)
    monkeypatch.setattr("tasks.compute.process.start", forbidden)
    (place.root / "report" / "index.html").unlink()
    again = round_flow(place, RoundParameters(round=0, variants=VARIANTS, replay=4))
    unchanged = ("version", "data_hash", "val_exact_match", "success_after")
    for name, values in summary["variants"].items():
        assert {key: again["variants"][name][key] for key in unchanged} == {key: values[key] for key in unchanged}
    assert again["decoder"]["binary"]["turns_per_second"] is None  # nothing was decoded
    assert (place.root / "report" / "index.html").exists()
    assert statuses == ["FINISHED"]  # the round was closed before its report, which may want more memory than there is


def test_a_variant_that_fails_leaves_the_others_standing(
    place: Workspace, summary: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Profile.settings

    def broken(profile: Profile, variant: str, round: int) -> Any:
        config = settings(profile, variant, round)
        return replace(config, learning_rate=1e30, warmup_steps=1) if variant == "t-rl" else config

    trained: list[str] = []

    def counted(command: list[str], **options: Any) -> Any:
        trained.append(json.loads(Path(command[-1]).read_text())["variant"])
        return forks.start(command, **options)

    parameters = RoundParameters(round=0, variants=VARIANTS)
    monkeypatch.setattr("tasks.compute.process.start", counted)
    monkeypatch.setattr(Profile, "settings", broken)
    with pytest.raises(VariantsFailedError, match="t-rl") as failed:
        round_flow(place, parameters)
    assert "b-fft" not in str(failed.value)
    written = json.loads((place.root / "summary.json").read_text())
    assert set(written["variants"]) == {"b-fft", "b-kto"}
    assert "lower the learning rate" in written["failed"]["t-rl"], "why it failed, in its own words"
    assert trained == ["t-rl"]

    # What failed it is gone, and the round is run again, twice at once: only that variant is trained, and only once.
    trained.clear()
    monkeypatch.setattr(Profile, "settings", settings)
    with ThreadPoolExecutor() as pool:
        rounds = [pool.submit(copy_context().run, round_flow, place, parameters) for _ in range(2)]
    assert trained == ["t-rl"]
    one, other = ({name: values["version"] for name, values in each.result()["variants"].items()} for each in rounds)
    assert one == other and set(one) == set(VARIANTS)
    assert {name: one[name] for name in written["variants"]} == {
        name: values["version"] for name, values in written["variants"].items()
    }


def _chained(*errors: Exception) -> Exception:
    """The first error, caused by the second, caused by the third, ..."""
    for error, cause in pairwise(errors):
        error.__cause__ = cause
    return errors[0]


def test_a_variant_that_failed_is_told_with_its_root_cause() -> None:
    prefect, disk = PrefectException("Failed to resolve inputs in parameter 'start'."), OSError("no space left")
    away = StoreError("no such bucket; make it")
    assert why(_chained(prefect, disk)) == "no space left"
    assert why(_chained(prefect, away, disk)) == "no such bucket; make it (cause: no space left)"
    assert why(_chained(StoreError("s3: no space left"), disk)) == "s3: no space left"  # said once
    assert why(PrefectException("Run is in PENDING state")) == "Run is in PENDING state"
    assert why(MemoryError()) == "MemoryError"


def test_a_round_without_interactions_says_what_to_do(place: Workspace, summary: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="round 7 has no interactions"):
        round_flow(place, RoundParameters(round=7, variants=[Variant.B_FFT]))


def test_a_validation_set_that_is_not_there_is_named(place: Workspace, summary: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no game set 'held-out'"):
        round_flow(place, RoundParameters(round=0, variants=[Variant.B_FFT], validation="held-out"))


def test_games_of_the_validation_set_are_kept_out_of_training(place: Workspace, summary: dict[str, Any]) -> None:
    from respect_core.store import tables

    store = place.open()
    trained = set(tables.read_table(store, "training_sets", [0], ["b-fft"])["interaction_id"].to_pylist())
    held_out = {log.interaction_id for log in curated.read(store, curated.VALIDATION)}
    assert trained and not trained & held_out


def test_what_people_want_is_in_no_training_set(place: Workspace, summary: dict[str, Any]) -> None:
    """The files themselves: no column of a learner's table speaks of targets or success."""
    files = [
        path
        for name in ("turns", "feedback", "training_sets")
        for path in Path(place.store_uri, name).rglob("*.parquet")
    ]
    assert files
    import pyarrow.parquet as pq

    for path in files:
        assert not {"targets", "success", "outcome"} & set(pq.read_schema(path).names)


def test_backfill_gives_what_the_policy_would_have_logged(place: Workspace, summary: dict[str, Any]) -> None:
    """The games of round 0 again as round 1, stripped of p; then by a policy that nobody knows."""
    store, profile = place.open(), replace(small("tiny"), propensity=Propensity.BACKFILL)
    (key,) = store.keys("interactions/round=0/variant=seed/")
    played = list(read_logs(store, key))
    logged = {f"{log.interaction_id}-again": [turn.probability for turn in log.turns] for log in played}
    append_logs(store, [_as_round_1(log) for log in played])
    export(store, 1)
    version = registry.latest(place, "seed")
    assert version is not None

    (filled,) = fill_propensities.fn(place, profile, 1, [Variant.T_RL], reference("seed", version))
    computed = read_probabilities(store, [filled])
    assert filled.source == "backfill" and len(computed) == sum(map(len, logged.values()))
    for (name, turn), p in computed.items():
        assert p == pytest.approx(logged[name][turn], rel=1e-3)

    append_logs(store, [_as_round_1(log, round=2, policy=UNKNOWN_POLICY) for log in played])
    export(store, 2)
    with pytest.raises(ValueError, match=r"round 2, variant b-rl.*is not in the registry.*--propensity surrogate"):
        fill_propensities.fn(place, profile, 2, [Variant.B_RL], reference("seed", version))


def _as_round_1(log: InteractionLog, **changes: Any) -> InteractionLog:
    turns = [turn.model_copy(update={"probability": None}) for turn in log.turns]
    changes = {"round": 1, "variant": "b-rl", **changes}
    return log.model_copy(update={"interaction_id": f"{log.interaction_id}-again", "turns": turns, **changes})
