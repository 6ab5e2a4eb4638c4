"""Start worker processes from a fork server (tasks/compute/fork_server.py), which spares each of them the imports.

The first worker of a process starts the server and waits for its imports; every other one takes a moment. The server
belongs to one driver, ends with it, and is replaced when it died or when what a process inherits from the driver has
changed since. Without Linux, or without a server, a worker is a new interpreter.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import IO

from tasks.compute.fork_server import MESSAGE_BYTES
from tasks.support import interruption
from tasks.support.interruption import Worker

PRELOADED = (
    "tasks.compute.loading",
    "respect_core.acting.policy",
    "respect_core.feedback.decoder",
    "respect_core.feedback.scoring",
    "respect_core.feedback.shards",
    "respect_core.learning.trainer",
    "respect_core.learning.trl_engine",
    "respect_core.learning.validation",
    "respect_core.measuring.guard_pass",
    "respect_core.scenarios.multiref.scenario",
    "transformers.models.idefics2.image_processing_pil_idefics2",
    "transformers.models.idefics2.modeling_idefics2",
    "transformers.models.idefics2.processing_idefics2",
    "transformers.models.llama.modeling_llama",
    "transformers.models.mistral.modeling_mistral",
)
"""What workers import, whatever their work; what they import besides takes little time."""
_READ_LATER = ("AWS_", "MLFLOW_", "PREFECT_", "PYTEST_", "RESPECT_", "OMP_NUM_THREADS")
"""Beginnings of names of variables that nothing in a worker reads when it is imported, or that are heeded later too."""
_TRIES = 2
_POLL_SECONDS = 0.2
_log = logging.getLogger(__name__)


class Forked:
    """A process that the fork server started."""

    def __init__(self, pid: int, handle: int, status: int, stdin: int, stdout: int) -> None:
        self.pid, self._handle, self._status = pid, handle, status
        self.stdin: IO[str] | None = os.fdopen(stdin, "w")
        self.stdout: IO[str] | None = os.fdopen(stdout)
        self._ended = False
        self._code: int | None = None

    def wait(self) -> int | None:
        """Wait for the end, and return the exit code; None if the server, which alone learns it, died before."""
        if not self._ended:
            told = os.read(self._status, 16)  # blocks
            ended = select.poll()
            ended.register(self._handle, select.POLLIN)
            ended.poll()
            self._ended, self._code = True, int(told) if told else None
            os.close(self._status)
        return self._code

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def __del__(self) -> None:
        os.close(self._handle)


class _Server:
    """A running fork server."""

    def __init__(self, inherited: object) -> None:
        self.inherited, self.owner, self.used = inherited, os.getpid(), False
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tasks.compute.fork_server", str(theirs.fileno()), *PRELOADED],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )

    def fork(self, request: bytes, log: IO[str]) -> Forked:
        """Have a process forked. Raises OSError if the server has died."""
        input_, stdin = os.pipe()
        stdout, output = os.pipe()
        status, code = os.pipe()
        try:
            socket.send_fds(self._control, [request], [input_, output, log.fileno(), code])
            while not select.select([self._control], [], [], _POLL_SECONDS)[0]:
                interruption.check()
            pid, handles, *_ = socket.recv_fds(self._control, 16, 1)
            if not pid:
                raise EOFError("it died")
        except BaseException:
            self.stop()  # what it may have forked ends with its standard input
            for each in (stdin, stdout, status):
                os.close(each)
            raise
        finally:
            for each in (input_, output, code):
                os.close(each)
        self.used = True
        return Forked(int(pid), handles[0], status, stdin, stdout)

    def retire(self) -> None:
        """Let the server end as soon as the last of its processes has."""
        self._control.close()

    def stop(self) -> None:
        """End the server at once; nobody then learns the exit codes of its processes."""
        self._control.close()
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()


_lock = Lock()
_servers: list[_Server] = []
"""The last one is in use; others have processes that run."""
_unusable: list[OSError | EOFError] = []
"""Why new interpreters are started instead."""


def start(command: Sequence[str], *, log: IO[str], env: Mapping[str, str]) -> Worker:
    """Start `python -m MODULE ARGUMENT...` with pipes for standard input and output, in a process group of its own.

    Args:
        command: what follows `python`.
        log: gets standard error.

    Raises:
        asyncio.CancelledError: the flow was interrupted.
    """
    request = json.dumps({"arguments": list(command), "environment": dict(env)}).encode()
    with _one_at_a_time():
        for _ in range(_TRIES):
            if _unusable or not hasattr(os, "pidfd_open") or len(request) > MESSAGE_BYTES:
                break
            server = _server()
            try:
                return server.fork(request, log)
            except (OSError, EOFError) as error:
                _log.warning("the process that workers are forked from has died")
                if not server.used:
                    _unusable.append(error)
    return subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.PIPE,  # never written to: it closes when this process ends, which ends the worker
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=env,
        process_group=0,  # Ctrl-C reaches only this process, which then stops its workers
    )


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    while not _lock.acquire(timeout=_POLL_SECONDS):
        interruption.check()
    try:
        yield
    finally:
        _lock.release()


def _server() -> _Server:
    """Return the fork server of this process as it is now; start it if there is none."""
    inherited = _inherited()
    _servers[:] = [each for each in _servers if each.owner == os.getpid() and each.process.poll() is None]
    if not _servers or _servers[-1].inherited != inherited:
        if _servers:
            _servers[-1].retire()
        _servers.append(_Server(inherited))
    return _servers[-1]


@atexit.register
def stop() -> None:
    """End the fork servers of this process; the next worker starts another."""
    while _servers:
        _servers.pop().stop()


def _inherited() -> object:
    """Return what a process gets from this one when it starts, and cannot get later."""
    status = Path("/proc/self/status").read_text()
    return (
        {name: value for name, value in os.environ.items() if not name.startswith(_READ_LATER)},
        "OMP_NUM_THREADS" in os.environ,
        Path.cwd(),
        os.getpriority(os.PRIO_PROCESS, 0),
        os.sched_getaffinity(0),
        [resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")],
        next(line for line in status.splitlines() if line.startswith("Umask")),
    )
