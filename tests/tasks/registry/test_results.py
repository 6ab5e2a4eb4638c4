"""What a run on a work pool leaves for whoever asked for it; and where a worker finds its places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from respect_core.store.base import Store
from tasks.registry import registry, results
from tasks.support.references import FeedbackRef, LearnedRef, RegisteredRef, SelectedRef, TrainingSetRef
from tasks.support.workspace import Workspace, from_environment, workspace

DECODED = FeedbackRef(round=2, decoders={}, seconds=1.0)


def _place(root: Path, store: Store) -> Workspace:
    """A new MLflow database over that store."""
    return workspace(root).model_copy(update={"store_uri": store.uri})


def _register(place: Workspace, scratch: Path, adapter_hash: str) -> RegisteredRef:
    adapter = scratch / "adapter"
    adapter.mkdir(exist_ok=True)
    (adapter / "adapter_config.json").write_text("{}")
    run_id = registry.start_run(place, "b-fft round 2")
    tags = {"round": 2, "adapter_hash": adapter_hash}
    version = registry.register_adapter(place, run_id, "b-fft", adapter, tags=tags, metrics={}, step=2)
    return RegisteredRef(
        variant="b-fft", model=version.name, version=str(version.version), run_id=run_id, adapter_hash=adapter_hash
    )


def _learned(registered: RegisteredRef) -> LearnedRef:
    counts = ("train_turns", "positives", "negatives", "negatives_used", "rehearsal_turns")
    data = TrainingSetRef(variant="b-fft", round=2, data_hash="d", probabilities={}, **dict.fromkeys(counts, 1))
    selected = SelectedRef(
        variant="b-fft",
        seed=0,
        step=1,
        exact_match=0.5,
        sampled_match=0.4,
        validation_turns=2,
        illegal_actions=0,
        adapter=Path("adapter"),
        adapter_hash=registered.adapter_hash,
        trained=[],
    )
    return LearnedRef(training_set=data, selected=selected, registered=registered)


def test_a_result_is_found_under_its_inputs_alone(new_store: Callable[[], Store], tmp_path: Path) -> None:
    place = _place(tmp_path / "root", new_store())
    key = results.key("train", 2, "b-fft", {"data": "x"})
    assert key.startswith("results/train/round=2/variant=b-fft/")
    assert results.find(place, key, FeedbackRef) is None
    results.put(place.open(), key, DECODED)
    assert results.find(place, key, FeedbackRef) == DECODED
    assert results.key("train", 2, "b-fft", {"data": "x"}) == key != results.key("train", 2, "b-fft", {"data": "y"})


def test_a_result_whose_version_the_registry_does_not_have_is_no_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A store outlives the MLflow database: the new one has no such version, and then another of its number."""
    place = workspace(tmp_path / "old")
    learned, key = _learned(_register(place, tmp_path, "adapter-1")), results.key("train", 2, "b-fft", {})
    results.put(place.open(), key, learned)
    assert results.find(place, key, LearnedRef) == learned
    assert "is done again" not in caplog.text

    anew = _place(tmp_path / "new", place.open())
    assert results.find(anew, key, LearnedRef) is None
    assert f"{key} names respect.b-fft/1 with adapter adapter-1" in caplog.text and "is done again" in caplog.text
    assert _register(anew, tmp_path, "adapter-2").version == "1"
    assert results.find(anew, key, LearnedRef) is None


def test_another_version_of_the_code_has_results_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    key = results.key("train", 2, "b-fft", {})
    monkeypatch.setattr(results, "code_version", lambda *roots: "other")
    assert results.key("train", 2, "b-fft", {}) != key


def test_a_worker_is_told_where_things_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESPECT_STORE", "s3://bucket/store")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.delenv("RESPECT_ROOT", raising=False)
    with pytest.raises(ValueError, match="RESPECT_ROOT not set on this worker"):
        from_environment()
    monkeypatch.setenv("RESPECT_ROOT", str(tmp_path / "root"))
    place, study = from_environment(), from_environment("studies/one")
    assert (place.store_uri, place.tracking_uri) == ("s3://bucket/store", "http://127.0.0.1:1")
    assert study.store_uri == "s3://bucket/store/studies/one" and study.root == place.root / "studies/one"
    assert study.experiment == "respect/studies/one" and study.root.is_dir()
