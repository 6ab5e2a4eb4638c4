"""What an interruption of a flow ends, in this process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from prefect.exceptions import CancelledRun, Pause, TerminationSignal
from pydantic import BaseModel

from tasks.compute import process
from tasks.support import interruption


@pytest.mark.parametrize(
    "error",
    [CancelledRun(), TerminationSignal(15), KeyboardInterrupt(), SystemExit(143), Pause(), asyncio.CancelledError()],
)
def test_somebody_stopped_it(error: BaseException) -> None:
    assert interruption.interrupts(error)


@pytest.mark.parametrize("error", [ValueError("no set"), OSError(), process.WorkerFailedError("exit code -15"), None])
def test_it_failed_or_ended(error: BaseException | None) -> None:
    assert not interruption.interrupts(error)


class Nothing(BaseModel):
    """A specification."""


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Workers that do nothing; collects their process numbers."""
    started: list[int] = []

    def sleeping(_: list[str], **__: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(worker.pid)
        return worker

    monkeypatch.setattr(process, "start", sleeping)
    monkeypatch.setattr(process, "parallel_workers", lambda: 2)
    process._slots.cache_clear()
    yield started
    process._slots.cache_clear()


def test_workers_and_those_who_wait_for_a_core_or_for_their_next_try(tmp_path: Path, idle: list[int]) -> None:
    def work(number: int) -> object:
        return process.run(Nothing(), tmp_path / str(number), lambda *_: None)

    with ThreadPoolExecutor() as pool:
        waiting: list[Future[object]] = [pool.submit(work, number) for number in range(3)]
        waiting.append(pool.submit(interruption.sleep, 600))
        while len(idle) < 2 and not waiting[0].done():
            time.sleep(0.01)
        with interruption.stopping():
            ends = [each.exception(timeout=30) for each in waiting]
    assert [type(end) for end in ends] == [asyncio.CancelledError] * 4
    assert not [pid for pid in idle if Path(f"/proc/{pid}").exists()]
    began = time.monotonic()
    interruption.sleep(0.01)  # of the next flow
    assert time.monotonic() - began < 30
