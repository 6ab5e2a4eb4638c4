"""Work in a process of its own."""

from __future__ import annotations

import errno
import json
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forked
import pytest
import torch

from respect_core.model.packing import GameError
from respect_core.profiles import tiny
from respect_core.store.base import StoreError
from respect_core.variants import Objective
from tasks.compute import forks, process, worker
from tasks.compute.specs import TrainSpec
from tasks.support.retries import is_transient
from tasks.support.workspace import workspace


def _spec(root: Path) -> TrainSpec:
    return TrainSpec(
        workspace=workspace(root),
        profile=tiny(),
        code_version="test",
        base_sha256=None,
        variant="b-fft",
        round=0,
        data_hash="none",
        training=tiny().training[Objective.FFT],
        seed=0,
        validation="no-such-set",
        validation_sha256="none",
        adapter=None,
        directory=root / "out",
    )


def test_a_specification_survives_the_way_to_the_process(tmp_path: Path) -> None:
    spec = _spec(tmp_path)
    assert TrainSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_failing_worker_says_why_and_leaves_no_result(tmp_path: Path) -> None:
    with pytest.raises(process.WorkerRefusedError, match="no game set 'no-such-set'") as failed:
        process.run(_spec(tmp_path), tmp_path / "out", lambda done, total, note: None)
    assert not (tmp_path / "out" / "result.json").exists()
    assert not is_transient(failed.value)  # a set that is not there will not be there in a minute


def test_a_worker_that_is_killed_is_worth_another_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(command: list[str], **options: Any) -> Any:
        worker = forks.start(command, **options)
        worker.kill()
        return worker

    monkeypatch.setattr(process, "start", killed)
    with pytest.raises(process.WorkerCutOffError, match="exit code -9") as failed:
        process.run(_spec(tmp_path), tmp_path / "out", lambda done, total, note: None)
    assert is_transient(failed.value)


@pytest.mark.parametrize("result", [True, False])
def test_without_an_exit_code_the_result_decides(result: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What forked the worker died before it, and nobody else learns its exit code."""

    def started(command: list[str], **_: Any) -> Any:
        if result:
            Path(command[-1]).with_name("result.json").write_text("{}")
        return SimpleNamespace(stdout=(), stdin=None, wait=lambda: None, kill=lambda: None)

    monkeypatch.setattr(process, "start", started)
    if result:
        assert json.loads(process.run(_spec(tmp_path), tmp_path / "out", lambda *_: None).read_text()) == {}
        return
    with pytest.raises(process.WorkerCutOffError, match="exit code -9"):
        process.run(_spec(tmp_path), tmp_path / "out", lambda *_: None)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreError("s3://bucket cannot be reached"), process.CUT_OFF),
        (OSError(errno.ENOSPC, "No space left on device"), process.CUT_OFF),
        (FileNotFoundError("no adapter in /adapter"), 1),
        (torch.OutOfMemoryError("CUDA out of memory"), 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"), process.NO_ROOM),
        (ValueError("no such game set"), process.REFUSED),
        (GameError("g1", 2, "too long"), process.REFUSED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_workers_exit_code_says_who_failed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def fails(spec: TrainSpec) -> Any:
        raise error

    monkeypatch.setitem(worker.WORK, "train", fails)
    (tmp_path / "spec.json").write_text(_spec(tmp_path).model_dump_json())
    assert worker.run(tmp_path / "spec.json") == code
    assert (tmp_path / process.CULPRIT).exists() == isinstance(error, GameError)


def test_a_worker_whose_store_is_away_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the store's directory was")
    with pytest.raises(process.WorkerCutOffError, match=r"exit code 75(?s:.*)StoreError"):
        process.run(_spec(tmp_path), tmp_path / "out", lambda done, total, note: None)


def test_whoever_waits_for_the_whole_machine_is_not_overtaken() -> None:
    """Three shares; the first of three users is at work when somebody asks for all, and then a fourth for one."""
    slots = process._Slots([{"number": str(number)} for number in range(3)])
    order: list[str] = []

    def work(name: str, count: int) -> None:
        with slots.taken(count) as taken:
            assert len({slot["number"] for slot in taken}) == count
            order.append(name)

    with slots.taken(1):
        whole = threading.Thread(target=work, args=("whole", 3))
        whole.start()
        while not slots._turn.locked():
            time.sleep(0.001)
        single = threading.Thread(target=work, args=("single", 1))
        single.start()
        time.sleep(0.1)
        assert order == []
    whole.join(timeout=30)
    single.join(timeout=30)
    assert order == ["whole", "single"]
    with slots.taken(3):
        pass  # all came back


_PARENT = """
import os, sys
from pathlib import Path
from tasks.compute import forks, process
from tasks.compute.specs import TrainSpec

def announced(command, **options):
    # The worker reads its specification from a pipe into which nobody writes, and waits.
    path = Path(command[-1]).with_name("held.json")
    os.mkfifo(path)
    worker = forks.start([*command[:-1], str(path)], **options)
    print(worker.pid, forks._servers[-1].process.pid, flush=True)
    return worker

forks.PRELOADED, process.start = (), announced
spec = TrainSpec.model_validate_json(Path(sys.argv[1]).read_text())
process.run(spec, Path(sys.argv[2]), lambda done, total, note: None)
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_does_not_outlive_its_parent(tmp_path: Path, ending: signal.Signals) -> None:
    (tmp_path / "spec.json").write_text(_spec(tmp_path).model_dump_json())
    command = [sys.executable, "-c", _PARENT, str(tmp_path / "spec.json"), str(tmp_path / "out")]
    with (tmp_path / "log").open("w") as log:
        parent = forked.Forked(command, stderr=log)
    children = [int(number) for number in parent.stdout.readline().split()]
    with (tmp_path / "out" / "held.json").open("w"):  # waits until the worker reads it
        assert len(children) == 2 and all(_alive(each) for each in children), "the worker, and what it was forked from"
        parent.send_signal(ending)
        parent.wait(timeout=30)
        deadline = time.monotonic() + 30
        while any(_alive(each) for each in children):
            assert time.monotonic() < deadline, "they are still there"
            time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_result_of_the_same_specification_is_not_computed_again(tmp_path: Path) -> None:
    spec, out = _spec(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / "spec.json").write_text(spec.model_dump_json(indent=2))
    (out / "result.json").write_text("kept")
    assert process.run(spec, out, lambda done, total, note: None).read_text() == "kept"

    changed = spec.model_copy(update={"data_hash": "other"})
    with pytest.raises(process.WorkerFailedError):
        process.run(spec, out, lambda done, total, note: None, again=True)
    with pytest.raises(process.WorkerFailedError):
        process.run(changed, out, lambda done, total, note: None)
    assert not (out / "result.json").exists()
