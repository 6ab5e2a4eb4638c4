"""Two drivers of the same work on Ray, over a stand-in for its cluster that does a job when its result is asked for."""

from __future__ import annotations

import importlib
import json
import sys
from asyncio import CancelledError
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from respect_core.profiles import tiny
from respect_core.store.leases import lease
from respect_core.store.manifests import Partition
from respect_core.store.open import open_store
from tasks.compute.specs import DecodeSpec
from tasks.support import interruption
from tasks.support.workspace import Workspace, workspace


@dataclass(eq=False)
class _Submitted:
    work: Callable[..., None]
    arguments: tuple[Any, ...] = ()

    def options(self, **_: Any) -> _Submitted:
        return self

    def remote(self, *arguments: Any) -> _Submitted:
        return _Submitted(self.work, arguments)


class _Cluster(ModuleType):
    """What `tasks.compute.on_ray` uses of Ray."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.exceptions = SimpleNamespace(RayTaskError=RuntimeError)
        self.remote = _Submitted
        self.is_initialized = lambda: True
        self.cluster_resources = lambda: {"CPU": 1}
        self.wait = lambda jobs, timeout: (jobs, [])
        self.get = lambda job: job.work(*job.arguments)
        self.cancel = lambda job, force: None


@pytest.fixture
def on_ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    cluster = _Cluster()
    monkeypatch.setitem(sys.modules, "ray", cluster)
    monkeypatch.setitem(sys.modules, "ray.exceptions", cluster.exceptions)  # type: ignore[arg-type]  # a stand-in
    monkeypatch.delitem(sys.modules, "tasks.compute.on_ray", raising=False)
    loaded = importlib.import_module("tasks.compute.on_ray")
    monkeypatch.setitem(sys.modules, "tasks.compute.on_ray", loaded)  # taken away again
    return loaded


def _decoding(place: Workspace) -> DecodeSpec:
    return DecodeSpec(
        workspace=place,
        profile=tiny(),
        code_version="test",
        partitions=[Partition(0, "b-fft")],
        identity={"decoder_model": "test"},
        turns_per_shard=10,
    )


def test_two_who_must_have_it_done_again_do_not_meet(
    on_ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second driver begins and ends between the first one's job and its result."""
    place = workspace(tmp_path)
    spec, drivers = _decoding(place), ["first", "second"]
    monkeypatch.setattr(on_ray, "_parts", lambda *_: [])

    def work(store_uri: str, folder: str, given: str | None, code: str) -> None:
        driver = drivers.pop(0)
        open_store(store_uri).put(f"{folder}/result.json", json.dumps(driver).encode())
        if drivers:
            assert json.loads(run("second").read_text()) == "second"

    def run(driver: str) -> Path:
        found: Path = on_ray.run(spec, tmp_path / driver, lambda *_: None, again=True)
        return found

    monkeypatch.setattr(on_ray, "work", work)
    assert json.loads(run("first").read_text()) == "first"
    assert not place.open().keys("jobs/")


def test_a_driver_waits_for_another_that_has_the_same_work_done(
    on_ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the nodes of both would write into one folder at a time, each over what the other sent."""
    spec, done = _decoding(workspace(tmp_path)), []
    monkeypatch.setattr(on_ray, "_parts", lambda *_: [])

    def run(driver: str) -> str:
        found: Path = on_ray.run(spec, tmp_path / driver, lambda *_: None)
        return found.read_text()

    with ThreadPoolExecutor(1) as pool:
        second: list[Future[str]] = []

        def work(store_uri: str, folder: str, given: str | None, code: str) -> None:
            done.append(folder)
            if not second:
                second.append(pool.submit(run, "second"))
                with pytest.raises(TimeoutError):
                    second[0].result(0.5)
            open_store(store_uri).put(f"{folder}/result.json", b"first")

        monkeypatch.setattr(on_ray, "work", work)
        assert run("first") == second[0].result(60) == "first"
    assert len(done) == 1


def test_a_driver_that_is_interrupted_while_it_waits_ends(
    on_ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = _decoding(workspace(tmp_path))
    monkeypatch.setattr(on_ray, "_parts", lambda *_: [])
    held = lease(spec.workspace.open(), on_ray.Job.of(spec).folder)
    with held, interruption.stopping(), pytest.raises(CancelledError):
        on_ray.run(spec, tmp_path / "here", lambda *_: None)


def test_what_a_driver_left_when_it_was_killed_is_found_where_nothing_is_done_again(
    on_ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = workspace(tmp_path)
    spec = _decoding(place)
    place.open().put(f"{on_ray.Job.of(spec).folder}/result.json", b"1")
    monkeypatch.setattr(on_ray, "_parts", lambda *_: [])
    monkeypatch.setattr(on_ray, "work", lambda *_: pytest.fail("it was done before"))
    assert on_ray.run(spec, tmp_path / "here", lambda *_: None).read_text() == "1"
