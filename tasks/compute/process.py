"""Run one piece of work in a process of its own, with a share of the machine and progress on its output.

Separate processes isolate variants: one that runs out of memory or dies takes no other with it, and each has one device
and threads of its own.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Condition, Lock

from pydantic import BaseModel

from respect_core.errors import ExpectedError
from respect_core.settings import settings
from tasks.compute.forks import start
from tasks.support.interruption import killed_when_stopping

ProgressCallback = Callable[[int, int, str], None]
"""done, total, note."""


REFUSED = os.EX_DATAERR
"""Exit code of a worker whose next try would end the same way."""
EXIT_CODE = "exit-code"
"""File in which a failed worker leaves its exit code: a launcher of several workers has an exit code of its own."""
NO_ROOM = os.EX_OSERR
"""Exit code of a worker that the system refused memory, even for the smallest piece of its work."""
CULPRIT = "culprit.json"
"""File in which a worker names the game that it cannot do: `game`, `turn` and `reason`."""

CUT_OFF = os.EX_TEMPFAIL
"""Exit code of a worker whose store or disk failed."""

_KILLED = (-signal.SIGKILL, -signal.SIGTERM)


class WorkerFailedError(ExpectedError):
    """The process ended without a result; the message has the end of its log."""

    code = 0
    """Its exit code."""


class WorkerRefusedError(WorkerFailedError, ValueError):
    """The process failed because of its input, not because of where it ran: another try would end the same way."""


class WorkerCutOffError(WorkerFailedError):
    """The process was killed, or its store or disk failed: this says nothing about its input."""


Slot = Mapping[str, str]
"""The environment of a worker that has a share of the machine: one device, or one core."""


class _Slots:
    """All shares of the machine. A caller that waits for several is not overtaken by callers that want one."""

    def __init__(self, slots: list[Slot]) -> None:
        self._free, self._turn, self._changed = slots, Lock(), Condition()

    @contextmanager
    def taken(self, count: int) -> Iterator[list[Slot]]:
        with self._turn, self._changed:
            self._changed.wait_for(lambda: len(self._free) >= count)
            taken, self._free = self._free[:count], self._free[count:]
        try:
            yield taken
        finally:
            with self._changed:
                self._free += taken
                self._changed.notify()


_making = Lock()
"""Held while slots are made: several threads may ask first, and must get the same ones."""


@cache
def _slots() -> _Slots:
    import torch

    if torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # a worker may have only some of the machine's devices
        devices = visible.split(",") if visible else map(str, range(parallel_workers()))
        return _Slots([{"CUDA_VISIBLE_DEVICES": device} for device in devices])
    # One thread each: on small models, two processes with one thread are faster than one process with two.
    return _Slots([{"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}] * parallel_workers())


@cache
def parallel_workers() -> int:
    """Return how many workers the machine can run: its number of CUDA devices, or of cores."""
    import torch

    return torch.cuda.device_count() or len(os.sched_getaffinity(0))


@contextmanager
def _share(all_cores: bool, processes: int) -> Iterator[dict[str, str]]:
    """Environment of a worker with a slot for each of its processes or, if there are no devices, every core."""
    import torch

    whole = all_cores and not torch.cuda.is_available()
    with _making:
        slots_there = _slots()
    with slots_there.taken(parallel_workers() if whole else processes) as slots:
        names = {} if whole else slots[0]
        joined = {"CUDA_VISIBLE_DEVICES"} & names.keys()
        yield {**names, **{name: ",".join(slot[name] for slot in slots) for name in joined}}


def processes_of_training() -> int:
    """Return how many processes train together: what accelerate's configuration in RESPECT_ACCELERATE says, else one.

    Raises:
        ValueError: there is no such file.
    """
    config = settings().accelerate
    if not config:
        return 1
    if not config.is_file():
        raise ValueError(f"RESPECT_ACCELERATE={config}: no such file; name one such as deployments/accelerate/ddp.yaml")
    from accelerate.commands.config.config_args import load_config_from_file

    return int(load_config_from_file(str(config)).num_processes)


def _command(processes: int) -> list[str]:
    """Return the beginning of what follows `python` on a worker's command line."""
    config = str(settings().accelerate)
    launch = ["-m", "accelerate.commands.launch", "--config_file", config] if processes > 1 else []
    return [*launch, "-m", "tasks.compute.worker"]


def run(
    spec: BaseModel,
    directory: Path,
    progress: ProgressCallback,
    *,
    all_cores: bool = False,
    again: bool = False,
    spread: bool = False,
) -> Path:
    """Run `python -m tasks.compute.worker` on a specification, when a slot is free, and return its result file.

    Args:
        spec: one of `tasks.compute.specs`.
        directory: gets spec.json, worker.log and result.json. If it already holds the result of exactly this
            specification (which includes data hash and code version), that is returned and nothing runs.
        progress: called with (done, total, note) as the worker reports.
        all_cores: for work that cannot be split between workers: wait for the whole machine. If there are devices,
            one of them is enough.
        again: run even if the result is there, because the real output is stored elsewhere.
        spread: for training, which runs in as many processes as RESPECT_ACCELERATE says.

    Raises:
        ValueError: there are fewer devices or cores than processes.
        WorkerRefusedError: the worker ended with an error that another try would not cure.
        WorkerCutOffError: the worker was killed, or its store or disk failed.
        WorkerFailedError: the worker ended with another error.
        asyncio.CancelledError: the flow was interrupted.
    """
    directory.mkdir(parents=True, exist_ok=True)
    spec_file, log_file, result = (directory / name for name in ("spec.json", "worker.log", "result.json"))
    text = spec.model_dump_json(indent=2)
    if not again and result.exists() and spec_file.exists() and spec_file.read_text() == text:
        return result
    processes = processes_of_training() if spread else 1
    if processes > parallel_workers():
        raise ValueError(
            f"RESPECT_ACCELERATE asks for {processes} processes, and there are {parallel_workers()} devices or cores; "
            "lower num_processes in it"
        )
    left = directory / EXIT_CODE
    for old in (result, left, directory / CULPRIT):
        old.unlink(missing_ok=True)
    spec_file.write_text(text)
    with _share(all_cores, processes) as environment, log_file.open("w") as log:
        process = start([*_command(processes), str(spec_file)], log=log, env={**os.environ, **environment})
        with killed_when_stopping(process):
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    report = json.loads(line)
                    progress(report["done"], report["total"], report["note"])
                else:
                    log.write(line)
            code = process.wait()
    if code is None:  # nobody knows; a result is written whole, at the end
        code = 0 if result.exists() else -signal.SIGKILL
    if code != 0 or not result.exists():
        tail = "\n".join(log_file.read_text().splitlines()[-15:])
        code = int(left.read_text()) if left.exists() else code
        error = _failure(code)(f"worker for {spec_file} ended with exit code {code}; the end of {log_file}:\n{tail}")
        error.code = code
        raise error
    return result


def _failure(code: int) -> type[WorkerFailedError]:
    if code == CUT_OFF or code in _KILLED:
        return WorkerCutOffError
    return WorkerRefusedError if code in (REFUSED, NO_ROOM) else WorkerFailedError
