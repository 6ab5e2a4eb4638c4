"""Worker processes that are forked from one that has the heavy libraries."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tasks.compute import forks
from tasks.support import interruption
from tasks.support.interruption import Worker

COMMAND = ["-m", "tests.inherited"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "ONLY_HERE": "ü"}


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Servers of a test, which import next to nothing."""
    monkeypatch.setattr(forks, "_servers", [])
    monkeypatch.setattr(forks, "_unusable", [])
    monkeypatch.setattr(forks, "PRELOADED", ("json",))
    yield monkeypatch
    forks.stop()


def _start(folder: Path, *arguments: str) -> Worker:
    with (folder / "worker.log").open("w") as log:
        return forks.start([*COMMAND, *arguments], log=log, env=ENVIRONMENT)


def _ended(worker: Worker) -> int | None:
    assert worker.stdin is not None
    worker.stdin.close()
    return worker.wait()


def _told(worker: Worker) -> dict[str, Any]:
    assert worker.stdout is not None
    told: dict[str, Any] = json.loads(worker.stdout.readline())
    return told


def test_a_forked_process_is_like_a_new_one(tmp_path: Path) -> None:
    one, two = _start(tmp_path, "x"), _start(tmp_path, "x")
    server = forks._servers[-1].process.pid
    assert Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2].split()[1] == str(server)
    told, other = _told(one), _told(two)
    assert [_ended(one), _ended(two)] == [7, 7]
    new = subprocess.run(
        [sys.executable, *COMMAND, "x"],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,
        check=False,
    )
    expected = json.loads(new.stdout)
    drawn = [each.pop("drawn") for each in (told, other, expected)]
    assert told == other == expected
    assert len({value for pair in drawn for value in pair}) == 9, "two processes drew the same"
    assert told["environment"]["ONLY_HERE"] == "ü" and told["threads"] == 1 and not told["device"]
    (tasks,) = (list(folder.iterdir()) for folder in [Path(f"/proc/{server}/task")])
    assert len(tasks) == 1, "a fork would lose the others"


def test_what_it_writes_goes_to_its_log(tmp_path: Path, own: pytest.MonkeyPatch) -> None:
    with (tmp_path / "worker.log").open("w") as log:
        worker = forks.start(["-m", "no.such.module"], log=log, env=ENVIRONMENT)
    assert worker.wait() == 1
    assert "no" in (tmp_path / "worker.log").read_text()


def test_a_killed_worker_harms_neither_the_server_nor_others(tmp_path: Path, own: pytest.MonkeyPatch) -> None:
    one, two = _start(tmp_path, "wait"), _start(tmp_path, "wait")
    server = forks._servers[-1]
    one.kill()
    assert one.wait() == -signal.SIGKILL
    assert _ended(two) == 7
    assert _ended(_start(tmp_path)) == 7
    assert forks._servers == [server]


def test_a_server_that_is_killed_is_replaced_and_its_workers_continue(tmp_path: Path, own: pytest.MonkeyPatch) -> None:
    worker = _start(tmp_path, "wait")
    before = forks._servers[-1].process
    os.kill(before.pid, signal.SIGKILL)
    before.wait()
    after = _start(tmp_path)
    assert forks._servers[-1].process.pid != before.pid
    assert _told(worker)["arguments"] == ["inherited.py", "wait"]
    assert _ended(worker) is None, "nobody learned its exit code"
    assert _ended(after) == 7


def test_a_server_that_dies_unnoticed_is_replaced_too(tmp_path: Path, own: pytest.MonkeyPatch) -> None:
    _ended(_start(tmp_path))
    server = forks._servers[-1].process
    answers = iter([None])  # it dies right after being asked
    own.setattr(server, "poll", lambda: next(answers, -signal.SIGKILL))
    os.kill(server.pid, signal.SIGKILL)
    assert _ended(_start(tmp_path)) == 7
    assert forks._servers[-1].process is not server


def test_a_server_is_replaced_when_what_it_inherits_has_changed(tmp_path: Path, own: pytest.MonkeyPatch) -> None:
    worker = _start(tmp_path, "wait")
    first = forks._servers[-1]
    own.setenv("RESPECT_STORE", str(tmp_path))  # which each worker reads for itself
    _ended(_start(tmp_path))
    assert forks._servers == [first]
    own.setenv("HF_HUB_OFFLINE", "2")
    _ended(_start(tmp_path))
    assert len(forks._servers) == 2
    assert _ended(worker) == 7, "the server lives until the last of its workers has ended"
    first.process.wait(timeout=30)


def test_a_driver_that_was_forked_has_a_server_of_its_own(tmp_path: Path, own: pytest.MonkeyPatch) -> None:
    _ended(_start(tmp_path))
    first = forks._servers[-1]
    own.setattr(first, "owner", 0)  # as it looks in a child
    _ended(_start(tmp_path))
    assert first not in forks._servers and first.process.poll() is None
    first.owner = os.getpid()
    first.stop()


@pytest.mark.parametrize("why", ["it ends while it imports", "the request is too long", "no Linux"])
def test_without_a_server_a_worker_is_a_new_interpreter(why: str, tmp_path: Path, own: pytest.MonkeyPatch) -> None:
    if why == "no Linux":
        own.delattr(os, "pidfd_open")
    elif why == "the request is too long":
        own.setattr(forks, "MESSAGE_BYTES", 10)
    else:
        (tmp_path / "ends.py").write_text("raise SystemExit(1)")
        own.setenv("PYTHONPATH", str(tmp_path))
        own.setattr(forks, "PRELOADED", ("ends",))
    worker = _start(tmp_path)
    assert isinstance(worker, subprocess.Popen)
    assert _ended(worker) == 7


@pytest.mark.parametrize(
    "left", ["import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"]
)
def test_a_thread_that_an_import_started_makes_every_process_a_new_interpreter(
    left: str, tmp_path: Path, own: pytest.MonkeyPatch
) -> None:
    (tmp_path / "left.py").write_text(left)
    own.setenv("PYTHONPATH", str(tmp_path))
    own.setattr(forks, "PRELOADED", ("left",))
    worker = _start(tmp_path)
    assert isinstance(worker, forks.Forked)
    assert _told(worker)["command"].endswith("tests.inherited") and _ended(worker) == 7


def test_an_interruption_does_not_wait_for_imports(tmp_path: Path, own: pytest.MonkeyPatch) -> None:
    (tmp_path / "long.py").write_text("import time; time.sleep(600)")
    own.setenv("PYTHONPATH", str(tmp_path))
    own.setattr(forks, "PRELOADED", ("long",))
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(_start, tmp_path) for _ in range(2)]
        time.sleep(0.5)
        began = time.monotonic()
        with interruption.stopping():
            assert [type(each.exception(timeout=30)) for each in both] == [asyncio.CancelledError] * 2
    assert time.monotonic() - began < 30
    assert not [each for each in forks._servers if each.process.poll() is None]
