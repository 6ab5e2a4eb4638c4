"""Runs one piece of work in a process of its own, with a share of the machine and progress on its output.

A process of its own keeps variants apart: one that runs out of memory or dies takes nothing with it, each sees
one device, and its threads are its own.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import BaseModel

ProgressCallback = Callable[[int, int, str], None]
"""done, total, note."""


class WorkerFailed(RuntimeError):
    """The process ended without a result; the message carries the end of its log."""


@dataclass(frozen=True)
class Slot:
    """A share of the machine: one device, or one core."""

    environment: dict[str, str]


@cache
def _slots() -> queue.SimpleQueue[Slot]:
    import torch

    slots: queue.SimpleQueue[Slot] = queue.SimpleQueue()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # a worker may have been given some of the machine's devices
    for number in range(parallel_workers()):
        if torch.cuda.is_available():
            slots.put(Slot({"CUDA_VISIBLE_DEVICES": visible.split(",")[number] if visible else str(number)}))
        else:
            # One thread each: on small models two processes of one thread outrun one process of two.
            slots.put(Slot({"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}))
    return slots


@cache
def parallel_workers() -> int:
    """How many workers the machine carries: its CUDA devices, or its cores."""
    import torch

    return torch.cuda.device_count() or len(os.sched_getaffinity(0))


@contextmanager
def _slot() -> Iterator[Slot]:
    slot = _slots().get()
    try:
        yield slot
    finally:
        _slots().put(slot)


def run(spec: BaseModel, directory: Path, progress: ProgressCallback) -> Path:
    """Run `python -m tasks.worker` on a specification, when a slot is free, and return its result file.

    Args:
        spec: one of the specifications of `tasks.worker`.
        directory: gets spec.json, worker.log and result.json. Where it holds the result of the very same
            specification (data hash and code version are in it), that is returned and nothing runs.
        progress: called with (done, total, note) as the worker reports.

    Raises:
        WorkerFailed: it ended with an error.
    """
    directory.mkdir(parents=True, exist_ok=True)
    spec_file, log_file, result = (directory / name for name in ("spec.json", "worker.log", "result.json"))
    text = spec.model_dump_json(indent=2)
    if result.exists() and spec_file.exists() and spec_file.read_text() == text:
        return result
    result.unlink(missing_ok=True)
    spec_file.write_text(text)
    with _slot() as slot, log_file.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.worker", str(spec_file)],
            stdin=subprocess.PIPE,  # never written to: it closes when this process ends, and the worker with it
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **slot.environment},
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("{"):
                    report = json.loads(line)
                    progress(report["done"], report["total"], report["note"])
                else:
                    log.write(line)
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
    if code != 0 or not result.exists():
        tail = "\n".join(log_file.read_text().splitlines()[-15:])
        raise WorkerFailed(f"worker for {spec_file} ended with exit code {code}; the end of {log_file}:\n{tail}")
    return result
