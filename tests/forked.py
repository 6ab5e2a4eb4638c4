"""Processes of Python that have the heavy libraries from their first moment: forked from one that imported them once.

For tests of what processes do, not of how they are started. Each is as real as any other: it has an environment and
pipes of its own, and may be killed.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import IO, Any

from paths import REPOSITORY

# Nothing of the project: the first process does not know yet from which tree it comes.
_LIBRARIES = ["torch", "accelerate", "peft", "gguf", "pandas", "pyarrow.parquet", "boto3", "prefect", "mlflow"]
_LIBRARIES += [f"transformers.models.{name}" for name in ("idefics2.modeling_idefics2", "llama.modeling_llama")]
_LIBRARIES += ["uvicorn", "mlflow.server.fastapi_app"]  # the latter asks whether the former is there

_context = get_context("forkserver")
_context.set_forkserver_preload(_LIBRARIES)
_one_at_a_time = Lock()
"""Starting a process looks at all others, and of two threads that look at one, only the first learns how it ended."""


class Forked:
    """As `subprocess.Popen` of `python -m MODULE` or `python -c SCRIPT`, as far as it is used here."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stderr: IO[Any],
        stdin: int | None = None,
        stdout: int | None = None,
        text: bool = True,
        process_group: int | None = None,
    ) -> None:
        given, self._input = _context.Pipe(duplex=False)
        output, printed = _context.Pipe(duplex=False)
        log = Connection(os.dup(stderr.fileno()), readable=False)
        self._process = _context.Process(
            target=_run,
            args=(list(command[1:]), cwd or Path.cwd(), dict(env or os.environ), process_group, given, printed, log),
        )
        with _one_at_a_time:
            self._process.start()
        for each in (given, printed, log):
            each.close()
        self.pid = self._process.pid
        self.stdin = self._input
        self.stdout = os.fdopen(os.dup(output.fileno()))
        output.close()

    def poll(self) -> int | None:
        with _one_at_a_time:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        wait([self._process.sentinel], timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired("", timeout or 0.0)
        return code

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: int) -> None:
        if self._process.pid is not None and self.poll() is None:
            os.kill(self._process.pid, number)


popen = SimpleNamespace(Popen=Forked, PIPE=subprocess.PIPE)
"""What `tasks.compute.process` may take for the module subprocess."""


def _run(command: list[str], folder: Path, environment: dict[str, str], group: int | None, *ends: Connection) -> None:
    if group is not None:
        os.setpgid(0, group)
    os.chdir(folder)
    for number, end in enumerate(ends):
        os.dup2(end.fileno(), number)
        end.close()
    os.environ.clear()
    os.environ.update(environment)
    if threads := environment.get("OMP_NUM_THREADS"):  # which libraries read when they are imported
        import torch

        torch.set_num_threads(int(threads))
    how, what, *sys.argv[1:] = command
    sys.argv[0] = what
    sys.path.insert(0, str(REPOSITORY))
    if how == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<script>", "exec"), {"__name__": "__main__"})
