"""What a run on a work pool leaves for whoever asked for it; and where a worker finds its places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from respect_core.store import Store
from tasks import results
from tasks.references import RegisteredRef
from tasks.workspace import from_environment

SEED = RegisteredRef(variant="seed", model="respect.seed", version="1", run_id="r", adapter_hash="a")


def test_a_result_is_found_under_its_inputs_alone(new_store: Callable[[], Store]) -> None:
    store = new_store()
    key = results.key("train", 2, "b-fft", {"data": "x"})
    assert key.startswith("results/train/round=2/variant=b-fft/")
    assert results.find(store, key, RegisteredRef) is None
    results.put(store, key, SEED)
    assert results.find(store, key, RegisteredRef) == SEED
    assert results.key("train", 2, "b-fft", {"data": "x"}) == key != results.key("train", 2, "b-fft", {"data": "y"})


def test_another_version_of_the_code_has_results_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    key = results.key("train", 2, "b-fft", {})
    monkeypatch.setattr(results, "code_version", lambda: "other")
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
