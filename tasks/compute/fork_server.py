"""Fork processes that have the heavy libraries at once: `python -m tasks.compute.fork_server SOCKET MODULE...`.

The driver (tasks/compute/forks.py) asks over SOCKET for one process after the other: a command line `-m MODULE
ARGUMENT...`, an environment, and descriptors for standard input, output and error and for the exit code. This process
imports the modules once, then only forks and waits: it starts no thread, uses no device, draws no random number and
keeps no file open, so that a forked process differs from a new interpreter in nothing but what is imported. Where a
library did otherwise, the forked process replaces itself with a new interpreter. The server ends with its driver.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import runpy
import select
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

MESSAGE_BYTES = 100_000
"""A request, most of which is the environment, is at most this long: it is sent in one piece."""
_THREADS_OF_LIBRARIES = {
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # looks for devices without using one
}
"""Keep imports from starting threads and from using a device."""


def main(control: socket.socket, modules: Sequence[str]) -> NoReturn:
    """Import the modules, and fork on request; run the command of the request in each forked process."""
    gc.disable()
    with _environment(_THREADS_OF_LIBRARIES):
        for module in modules:
            with suppress(ImportError):  # of an extra that is not installed; who needs it will say so
                import_module(module)
    gc.freeze()  # a collection would write to, and so copy, every page
    _become(_serve(control))


def _serve(control: socket.socket) -> dict[str, Any]:
    """Fork for each request until the driver is gone; return the request in the forked process."""
    running: dict[int, tuple[int, int]] = {}  # process and where its exit code goes, by the process's descriptor
    poll = select.poll()
    poll.register(control, select.POLLIN)
    wanted = True
    while wanted or running:
        for ready, _ in poll.poll():
            if ready in running:
                poll.unregister(ready)
                _tell(*running.pop(ready))
                os.close(ready)
                continue
            message, given, *_ = socket.recv_fds(control, MESSAGE_BYTES, 4)
            if not message:
                wanted = False
                poll.unregister(control)
                continue
            *standard, status = given
            process = os.fork()
            if not process:
                for each in (status, *running, *(code for _, code in running.values())):
                    os.close(each)
                control.close()
                for number, each in enumerate(standard):
                    os.dup2(each, number)
                    os.close(each)
                request: dict[str, Any] = json.loads(message)
                return request
            for each in standard:
                os.close(each)
            handle = os.pidfd_open(process)
            running[handle] = process, status
            poll.register(handle, select.POLLIN)
            with suppress(OSError):  # the driver is gone, which the next message says
                socket.send_fds(control, [str(process).encode()], [handle])
    os._exit(0)


def _tell(process: int, status: int) -> None:
    """Write the exit code of a process that has ended, as subprocess counts: a signal is negative."""
    _, how = os.waitpid(process, 0)
    with suppress(BrokenPipeError):
        os.write(status, str(os.waitstatus_to_exitcode(how)).encode())
    os.close(status)


def _become(request: dict[str, Any]) -> NoReturn:
    """Run the command of a request in this forked process as a new interpreter would."""
    os.setpgid(0, 0)
    os.environ.clear()
    os.environ.update(request["environment"])
    command = [sys.executable, *request["arguments"]]
    if not _as_new():
        os.execv(sys.executable, command)
    _show(command)
    gc.enable()
    time.tzset()
    tempfile.tempdir = None
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    if torch := sys.modules.get("torch"):
        torch.default_generator.seed()  # as each process has, which draws its own
        if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():  # read only when torch is imported
            torch.set_num_threads(int(threads))
    _, module, *arguments = request["arguments"]
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    else:
        code = 0
    _end(code)


def _end(code: str | int | None) -> NoReturn:
    """End as an interpreter does, but leave taking down thousands of modules to the system."""
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as multiprocessing has its processes do
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 1 if code else 0)


def _as_new() -> bool:
    """Return whether the imports left neither a thread nor a device, which a fork would break."""
    torch: Any = sys.modules.get("torch")
    touched = torch is not None and (torch.cuda.is_initialized() or torch.cuda._is_in_bad_fork())
    return len(list(Path("/proc/self/task").iterdir())) == 1 and not touched


def _show(command: Sequence[str]) -> None:
    """Make `ps` show the command in place of the server's, as far as there is room."""
    first, last = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    text = "\0".join(command).encode(errors="surrogateescape")[: last - first - 1]
    ctypes.memmove(first, text.ljust(last - first, b"\0"), last - first)


@contextmanager
def _environment(more: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
