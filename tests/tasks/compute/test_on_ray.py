"""What a node does with a job, without a cluster; tests/flows/test_round_on_ray.py has one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from trainings import training

from respect_core.model.base import adapter_hash
from respect_core.versions import code_version
from tasks.compute import process
from tasks.compute.specs import TrainSpec
from tasks.support.workspace import Workspace

pytest.importorskip("ray", reason="Ray is not installed: pip install -c constraints.txt -e '.[ray]'")
from tasks.compute import on_ray


def _left(place: Workspace, spec: TrainSpec) -> str:
    """The job's folder, with its specification."""
    job = on_ray.Job.of(spec)
    place.open().put(f"{job.folder}/spec.json", spec.model_dump_json().encode())
    return job.folder


def _work(spec: TrainSpec, folder: str, code: str | None = None) -> None:
    on_ray.work(spec.workspace.store_uri, folder, None, code or code_version())


@pytest.mark.timeout(900)
def test_another_node_goes_on_behind_the_point_that_was_sent(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = training(people, tmp_path / "driver", steps=12, checkpoint_every=4)
    store, folder = spec.workspace.open(), _left(spec.workspace, spec)
    told: list[int] = []
    tell = on_ray._Copy.tell

    def until_sent(copy: Any, done: int, total: int, note: str) -> None:
        told.append(done)
        tell(copy, done, total, note)
        if store.exists(f"{folder}/resume.pt") and "second" not in str(copy._path):
            raise KeyboardInterrupt  # ends the worker, and with it the node's part

    monkeypatch.setattr(on_ray._Copy, "tell", until_sent)
    monkeypatch.setenv("RESPECT_ROOT", str(tmp_path / "first"))
    with pytest.raises(KeyboardInterrupt):
        _work(spec, folder)
    assert not list((tmp_path / "first" / "work").glob("job-*"))
    assert {key.removeprefix(f"{folder}/").split("/")[0] for key in store.keys(folder)} >= {"step-000004", "resume.pt"}
    before = told.copy()
    told.clear()

    monkeypatch.setenv("RESPECT_ROOT", str(tmp_path / "second"))
    _work(spec, folder)
    assert told == list(range(told[0], 13)) and 4 < told[0] <= before[-1] + 2
    _work(spec, folder)  # is there
    assert told[-1] == 12

    process.run(spec, spec.directory, lambda done, total, note: None)  # undisturbed, on this machine
    on_ray._fetch(store, folder, tmp_path / "fetched", point=False)
    assert _trained(tmp_path / "fetched") == _trained(spec.directory)


def _trained(directory: Path) -> Any:
    points = json.loads((directory / "result.json").read_text())["checkpoints"]
    return [{**each, "adapter": adapter_hash(directory / each["adapter"])} for each in points]


def test_a_node_with_other_code_refuses(people: Path, tmp_path: Path) -> None:
    spec = training(people, tmp_path, steps=2, checkpoint_every=2)
    with pytest.raises(ValueError, match="install the same on all"):
        _work(spec, _left(spec.workspace, spec), code="other")


def test_the_key_does_not_depend_on_where_files_lie(people: Path, tmp_path: Path) -> None:
    spec = training(people, tmp_path, steps=2, checkpoint_every=2)
    elsewhere = spec.workspace.model_copy(update={"root": Path("/elsewhere"), "tracking_uri": "http://other"})
    assert spec.moved(elsewhere, Path("/elsewhere/job"), None).key() == spec.key()
    assert spec.model_copy(update={"seed": 1}).key() != spec.key()


def test_without_a_cluster_it_says_what_to_do(tmp_path: Path) -> None:
    """In a process of its own: a connection lasts as long as its process."""
    script = "from tasks.compute import on_ray; on_ray.connect()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "NoClusterError" in done.stderr and "ray start" in done.stderr
