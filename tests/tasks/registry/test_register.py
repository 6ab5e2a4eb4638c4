"""A round's runs in MLflow, where the process that kept them was killed."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from forked import Forked
from samples import game

from respect_core.log.records import turn_rows
from respect_core.model.base import WEIGHTS, adapter_hash
from respect_core.profiles import idefics2_8b, tiny
from respect_core.release.lineage import data_hash
from respect_core.schemas import TRAINING_SET_SCHEMA
from respect_core.store.tables import write_partition
from respect_core.training_data import curated
from tasks.registry import registry
from tasks.registry.register import close_round, open_round, recipe, register_variant
from tasks.support.references import ExportedRef, SelectedRef, TrainedRef, TrainingSetRef
from tasks.support.workspace import Workspace, workspace

EXPORTED = ExportedRef(round=5, variants=["b-fft"], games=1, turns=3, turns_with_followup=2, set_aside=0, seconds=0.0)

_KILLED = """
import os, signal, sys
from respect_core.profiles import tiny
from tasks.registry import registry
from tasks.support.references import ExportedRef, SelectedRef, TrainingSetRef
from tasks.registry.register import open_round, register_variant
from tasks.support.workspace import Workspace

registry.end_run = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
kinds = (Workspace, ExportedRef, TrainingSetRef, SelectedRef)
place, exported, data, selected = (kind.model_validate_json(text) for kind, text in zip(kinds, sys.argv[1:]))
run_id = open_round.fn(place, 5, tiny(), exported)
register_variant.fn(place, run_id, tiny(), data, selected, "validation")
"""


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    made = workspace(tmp_path / "root")
    curated.write(made.open(), "validation", [game("v")])
    return made


def _training_set(place: Workspace) -> TrainingSetRef:
    rows = [{name: row.get(name) for name in TRAINING_SET_SCHEMA.names} for row in turn_rows(game("g1"))]
    table = pa.Table.from_pylist([row | {"label": 1, "source": "round"} for row in rows], schema=TRAINING_SET_SCHEMA)
    counts = dict.fromkeys(("train_turns", "positives", "negatives", "negatives_used", "rehearsal_turns"), 1)
    manifest = write_partition(place.open(), "training_sets", 5, "b-fft", table, counts=counts)
    return TrainingSetRef(variant="b-fft", round=5, data_hash=data_hash(manifest), probabilities={}, **counts)


def _selected(folder: Path) -> SelectedRef:
    """A checkpoint and what its training left."""
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "processor").mkdir()
    (folder / "result.json").write_text(json.dumps({"checkpoints": [{"step": 1, "right": [["v", 0, True]]}]}))
    (folder / "history.jsonl").write_text(json.dumps({"step": 1, "loss": 0.5}) + "\n")
    return SelectedRef(
        variant="b-fft",
        seed=0,
        step=1,
        exact_match=0.5,
        sampled_match=0.4,
        validation_turns=2,
        illegal_actions=0,
        adapter=folder / "adapter",
        adapter_hash=adapter_hash(folder / "adapter"),
        trained=[TrainedRef(variant="b-fft", seed=0, directory=folder, seconds=1.0)],
    )


def _runs(place: Workspace) -> list[tuple[str, str]]:
    """Name and status of every run, in the order in which they began."""
    found = registry.client(place).search_runs([registry.experiment_id(place)], order_by=["attributes.start_time"])
    return [(run.info.run_name, run.info.status) for run in found]


def test_a_recipe_names_the_engine_where_it_is_not_the_one_of_earlier_releases() -> None:
    """The versions that those registered are found again."""
    counts = dict.fromkeys(("train_turns", "positives", "negatives", "negatives_used", "rehearsal_turns"), 1)
    data = TrainingSetRef(variant="b-kto", round=0, data_hash="0" * 8, probabilities={}, **counts)
    assert recipe(idefics2_8b(), data) == "49b1e061a2b6c87cffdd13011446f8d93c42b9b8351e4915e4512aa52aa33586"
    assert len({recipe(profile, data) for profile in (tiny(), tiny().on("packed"), tiny().on("trl"))}) == 2


def test_a_killed_rounds_run_is_gone_on_with_and_nothing_stays_open(place: Workspace, tmp_path: Path) -> None:
    """kill -9 while the curves of a variant's seed are being logged."""
    data, selected = _training_set(place), _selected(tmp_path)
    given = [each.model_dump_json() for each in (place, EXPORTED, data, selected)]
    command = [sys.executable, "-c", _KILLED, *given]
    with (tmp_path / "log").open("w") as log:
        code = Forked(command, stderr=log).wait()
    assert code == -signal.SIGKILL, (tmp_path / "log").read_text()
    names = ["round 5", "b-fft round 5", "b-fft round 5 seed 0"]
    assert _runs(place) == [(name, "RUNNING") for name in names]

    run_id = open_round.fn(place, 5, tiny(), EXPORTED)
    version = register_variant.fn(place, run_id, tiny(), data, selected, "validation")
    close_round.fn(place, run_id, {})
    statuses = ["FINISHED", "KILLED", "KILLED", "FINISHED", "FINISHED"]
    assert _runs(place) == list(zip([*names, *names[1:]], statuses, strict=True))
    run = registry.client(place).get_run(version.run_id)
    assert (run.data.tags["mlflow.parentRunId"], run.info.status) == (run_id, "FINISHED")


def test_a_round_of_other_settings_does_not_go_on_with_a_killed_ones_run(place: Workspace) -> None:
    left = open_round.fn(place, 5, replace(tiny(), base="other"), EXPORTED)
    run_id = open_round.fn(place, 5, tiny(), EXPORTED)
    assert run_id != left
    assert _runs(place) == [("round 5", "KILLED"), ("round 5", "RUNNING")]
    assert open_round.fn(place, 5, tiny(), EXPORTED) == run_id


def test_an_interrupted_rounds_run_is_continued_and_one_that_ended_is_not(place: Workspace) -> None:
    run_id = open_round.fn(place, 5, tiny(), EXPORTED)
    close_round.fn(place, run_id, {}, "KILLED")
    assert _runs(place) == [("round 5", "KILLED")]
    assert open_round.fn(place, 5, tiny(), EXPORTED) == run_id
    assert _runs(place) == [("round 5", "RUNNING")]
    for status in ("FINISHED", "FAILED"):
        close_round.fn(place, run_id, {}, status)
        run_id, before = open_round.fn(place, 5, tiny(), EXPORTED), run_id
        assert run_id != before


def test_what_is_open_below_a_round_ends_with_it(place: Workspace) -> None:
    """MLflow was away when a variant wanted to say that it had failed."""
    run_id = open_round.fn(place, 5, tiny(), EXPORTED)
    registry.start_run(place, "b-fft round 5", run_id)
    close_round.fn(place, run_id, {"b-fft": "MLflow was away"}, "FAILED")
    assert _runs(place) == [("round 5", "FAILED"), ("b-fft round 5", "KILLED")]


def test_an_adapter_that_other_games_chose_again_is_a_version_of_its_own(place: Workspace, tmp_path: Path) -> None:
    """Its figure is another, and those games must not judge it."""
    data, selected = _training_set(place), _selected(tmp_path)
    first = register_variant.fn(place, None, tiny(), data, selected, "validation")
    assert register_variant.fn(place, None, tiny(), data, selected, "validation") == first
    curated.write(place.open(), "validation", [game("v"), game("w")])
    chosen_anew = selected.model_copy(update={"exact_match": 0.25})
    second = register_variant.fn(place, None, tiny(), data, chosen_anew, "validation")
    assert (second.version, second.adapter_hash) == ("2", first.adapter_hash)
    metrics = registry.client(place).get_run(second.run_id).data.metrics
    assert metrics["val_exact_match"] == 0.25
    curated.write(place.open(), "people", [game("x")])
    third = register_variant.fn(place, None, tiny(), data, selected, "people")
    assert registry.named(place, f"{third.model}/{third.version}").tags["validation"] == "people"


def test_a_retraining_at_the_same_time_has_files_of_its_own(
    place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It registers another adapter of variant and round while the round's files are being sent."""
    data, mine = _training_set(place), _selected(tmp_path)
    (tmp_path / "other").mkdir()
    by_hand = _selected(tmp_path / "other")
    (by_hand.adapter / "adapter_model.safetensors").write_bytes(b"other weights")
    by_hand = by_hand.model_copy(update={"adapter_hash": adapter_hash(by_hand.adapter)})
    whole, between = registry.register_adapter, [None]

    def register_adapter(*arguments: Any, **options: Any) -> Any:
        if between:
            between.pop()
            register_variant.fn(place, None, tiny(), data, by_hand, "validation", retrained=True)
        return whole(*arguments, **options)

    monkeypatch.setattr(registry, "register_adapter", register_adapter)
    register_variant.fn(place, None, tiny(), data, mine, "validation")
    files = [registry.adapter(place, version, fresh=True) for version in registry.versions(place, "b-fft")]
    weights = {(each / "adapter_model.safetensors").read_bytes() for each in files}
    assert weights == {b"weights", b"other weights"}
    assert not list(place.scratch.glob("registering-*"))


def test_a_version_of_an_earlier_release_is_found_again_by_its_weights(place: Workspace, tmp_path: Path) -> None:
    """Its recorded hash is of the adapter's own files, and still the one that its files are checked against."""
    data, selected = _training_set(place), _selected(tmp_path)
    first = register_variant.fn(place, None, tiny(), data, selected, "validation")
    old = adapter_hash(selected.adapter, like=WEIGHTS)
    registry.client(place).set_model_version_tag(first.model, first.version, "adapter_hash", old)
    again = register_variant.fn(place, None, tiny(), data, selected, "validation")
    assert (again.version, again.adapter_hash) == (first.version, old)
    registry.adapter(place, registry.named(place, f"{first.model}/{first.version}"), fresh=True)


def test_a_profile_that_was_changed_in_the_registry_is_told(place: Workspace, tmp_path: Path) -> None:
    """It names the base model, which the server would load."""
    data, selected = _training_set(place), _selected(tmp_path)
    first = register_variant.fn(place, None, tiny(), data, selected, "validation")
    version = registry.named(place, f"{first.model}/{first.version}")
    profile = Path(version.source.removeprefix("file://")) / "profile.json"
    profile.write_text(profile.read_text().replace('"tiny"', '"attacker/another-model"'))
    with pytest.raises(registry.AdapterMismatchError, match="hash to 2-"):
        registry.adapter(place, version, fresh=True)
