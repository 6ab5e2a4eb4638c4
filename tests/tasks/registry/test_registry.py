"""The registry against a real MLflow on SQLite."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from respect_core.model.base import adapter_hash
from tasks.registry import registry
from tasks.support.workspace import Workspace, workspace


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return workspace(tmp_path_factory.mktemp("registry"))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    return tmp_path


def _register(place: Workspace, variant: str, round: int, adapter: Path, adapter_hash: str) -> str:
    run_id = registry.start_run(place, f"{variant} round {round}")
    tags = {"round": round, "adapter_hash": adapter_hash}
    metrics = {"val_exact_match": 0.5}
    version = registry.register_adapter(place, run_id, variant, adapter, tags=tags, metrics=metrics, step=round)
    registry.end_run(place, run_id)
    return str(version.version)


def test_a_round_is_a_tree_of_runs(place: Workspace) -> None:
    parent = registry.start_run(place, "round 3", tags={"round": 3})
    child = registry.start_run(place, "b-fft round 3", parent)
    registry.log(place, child, params={"rate": 1e-4}, metrics=[("loss", 2.0, 1), ("loss", 1.0, 2)], tags={"a": 1})
    registry.end_run(place, child)
    registry.end_run(place, parent, "FAILED")

    mlflow = registry.client(place)
    run = mlflow.get_run(child)
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.params["rate"] == "0.0001"
    assert [(point.step, point.value) for point in mlflow.get_metric_history(child, "loss")] == [(1, 2.0), (2, 1.0)]
    assert mlflow.get_run(parent).info.status == "FAILED"


def test_a_child_is_found_again_by_its_name(place: Workspace) -> None:
    study, other = registry.start_run(place, "study"), registry.start_run(place, "study")
    first = registry.child_run(place, study, "b-fft")
    assert registry.child_run(place, other, "b-fft") != first
    registry.end_run(place, first)
    assert registry.child_run(place, study, "b-fft") == first


def test_what_a_killed_attempt_left_is_found_below_its_parent_and_ended_with_what_is_below(place: Workspace) -> None:
    above, other = registry.start_run(place, "round 7"), registry.start_run(place, "round 7")
    left = registry.start_run(place, "t-rl round 7", above)
    seed, done = (registry.start_run(place, f"t-rl round 7 seed {number}", left) for number in range(2))
    registry.end_run(place, done)
    elsewhere = registry.start_run(place, "t-rl round 7", other)

    def found(name: str, parent: str | None) -> set[str]:
        return {str(run.info.run_id) for run in registry.left_open(place, name, parent)}

    assert found("round 7", None) == {above, other}
    assert found("t-rl round 7", above) == {left} and found("t-rl round 7", None) == set()
    registry.end_run(place, left, "KILLED")
    assert found("t-rl round 7", above) == set()
    status = [registry.client(place).get_run(run).info.status for run in (above, left, seed, done, elsewhere)]
    assert status == ["RUNNING", "KILLED", "KILLED", "FINISHED", "RUNNING"]


def test_registered_files_come_back_whole_and_the_newest_is_the_candidate(place: Workspace, adapter: Path) -> None:
    first = _register(place, "t-rl", 0, adapter, "hash-0")
    second = _register(place, "t-rl", 1, adapter, "hash-1")
    assert int(second) > int(first)

    mlflow = registry.client(place)
    candidate = mlflow.get_model_version_by_alias("respect.t-rl", registry.CANDIDATE)
    assert str(candidate.version) == second
    files = registry.download(place, candidate)
    assert (files / "adapter_model.safetensors").read_bytes() == b"weights"
    assert registry.download(place, candidate) == files


def test_two_that_fetch_a_version_at_once_both_have_it(
    place: Workspace, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is done between this one's look and its move."""
    _register(place, "t-fft", 0, adapter, "hash-0")
    version = registry.client(place).get_model_version_by_alias("respect.t-fft", registry.CANDIDATE)
    real, target = registry.fetched, place.scratch / "registry" / version.name / str(version.version)

    @contextmanager
    def behind(*args: Any) -> Iterator[Path]:
        with real(*args) as files:
            shutil.copytree(files, target)
            yield files

    monkeypatch.setattr(registry, "fetched", behind)
    assert registry.download(place, version) == target
    assert {path.name for path in target.parent.iterdir()} == {target.name}, "something was left behind"


def test_training_goes_on_from_the_previous_round_else_from_the_seed(place: Workspace, adapter: Path) -> None:
    assert registry.previous(place, "b-kto", 0) is None
    seed = _register(place, "seed", 0, adapter, "hash-s")
    round_0 = _register(place, "b-kto", 0, adapter, "hash-k0")
    _register(place, "b-kto", 1, adapter, "hash-k1")

    def goes_on_from(round: int) -> tuple[str, str]:
        version = registry.previous(place, "b-kto", round)
        assert version is not None
        return version.name, str(version.version)

    assert goes_on_from(0) == ("respect.seed", seed)
    assert goes_on_from(1) == ("respect.b-kto", round_0)


def test_a_version_is_found_by_the_content_of_its_adapter(place: Workspace, adapter: Path) -> None:
    version = _register(place, "t-fft", 0, adapter, "hash-t")
    found = registry.by_adapter_hash(place, "respect.t-fft", "hash-t")
    assert found is not None and str(found.version) == version
    assert registry.by_adapter_hash(place, "respect.t-fft", "another") is None
    assert str(registry.named(place, f"respect.t-fft/{version}").version) == version


@pytest.mark.parametrize("reference", ["respect.t-fft", "respect.absent/1", "respect.t-fft/99"])
def test_a_version_that_is_not_there_is_refused_by_name(place: Workspace, reference: str) -> None:
    with pytest.raises(ValueError, match="is not a registered version"):
        registry.named(place, reference)


def test_files_that_cannot_be_stored_leave_no_version(place: Workspace, tmp_path: Path) -> None:
    run_id = registry.start_run(place, "broken")
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json is missing"):
        registry.register_adapter(place, run_id, "b-rl", tmp_path / "absent", tags={"round": 0}, metrics={}, step=0)
    assert registry.latest(place, "b-rl") is None


def test_what_was_logged_of_a_model_that_became_no_version_is_left_to_the_collector(
    place: Workspace, adapter: Path
) -> None:
    mlflow = registry.client(place)
    kept = registry.named(place, f"respect.b-kto/{_register(place, 'b-kto', 0, adapter, 'a' * 64)}")
    killed = registry.start_run(place, "b-kto round 1")
    experiment = registry.experiment_id(place)
    left = [mlflow.create_logged_model(experiment, name="b-kto", source_run_id=killed) for _ in range(2)]
    mlflow.finalize_logged_model(left[1].model_id, "READY")  # killed between the files and the version
    for run in (killed, kept.run_id):
        registry.end_run(place, str(run), "KILLED")
    found = {model.model_id for model in mlflow.search_logged_models([experiment])}
    assert str(kept.source).split("/")[-2] in found and not found & {model.model_id for model in left}
    assert registry.download(place, kept).is_dir()


def test_the_data_of_a_run_is_named_by_our_digest(place: Workspace) -> None:
    run_id = registry.start_run(place, "data")
    registry.log_dataset(place, run_id, "b-fft-round-0", "store/training_sets", "ab" * 32)
    inputs = registry.client(place).get_run(run_id).inputs.dataset_inputs
    assert [(each.dataset.name, each.dataset.digest) for each in inputs] == [("b-fft-round-0", "ab" * 16)]
    assert inputs[0].tags[0].value == "ab" * 32


def test_a_version_retrained_by_hand_moves_no_alias_and_is_no_rounds_start(place: Workspace, adapter: Path) -> None:
    of_round = _register(place, "t-kto", 1, adapter, "a" * 64)
    run_id = registry.start_run(place, "t-kto round 1")
    tags = {"round": 1, "adapter_hash": "b" * 64, registry.RETRAINED: True}
    beside = registry.register_adapter(place, run_id, "t-kto", adapter, tags=tags, metrics={}, step=1)
    assert len(registry.versions(place, "t-kto")) == 2
    assert [str(version.version) for version in registry.of_rounds(place, "t-kto")] == [of_round]
    candidate = registry.client(place).get_model_version_by_alias("respect.t-kto", registry.CANDIDATE)
    assert str(candidate.version) == of_round != str(beside.version)
    start = registry.previous(place, "t-kto", 2)
    assert start is not None and str(start.version) == of_round


def test_a_copy_that_lost_files_is_fetched_again_and_registered_ones_that_did_are_told(
    place: Workspace, adapter: Path
) -> None:
    number = _register(place, "t-fft", 0, adapter, adapter_hash(adapter))
    version = registry.named(place, f"respect.t-fft/{number}")
    for fresh in (False, True):
        copy = registry.adapter(place, version, fresh=fresh)
        for file in copy.glob("adapter_*"):
            file.unlink()
        assert adapter_hash(registry.adapter(place, version, fresh=fresh)) == version.tags["adapter_hash"]

    for file in Path(version.source.removeprefix("file://")).glob("adapter_*"):
        file.unlink()
    registry.adapter(place, version)  # the copy here is good
    with pytest.raises(registry.AdapterMismatchError, match=r"hash to nothing.*registered is"):
        registry.adapter(place, version, fresh=True)
