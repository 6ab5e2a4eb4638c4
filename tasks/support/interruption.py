"""Stop an interrupted flow at once: kill its workers, and end the waits of its tasks.

SIGTERM, Ctrl-C, cancelling and suspending reach a flow as an exception in its main thread, which then waits for the
threads of its tasks. Those wait for workers that train for hours, or for their next try: `stopping` ends both waits.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Lock
from typing import IO, Protocol


class Worker(Protocol):
    """A process that was started, as `subprocess.Popen` has it."""

    pid: int
    stdin: IO[str] | None
    stdout: IO[str] | None

    def wait(self) -> int | None: ...

    def kill(self) -> None: ...


_requested = Event()
_lock = Lock()
_workers: list[Worker] = []


def interrupts(error: BaseException | None) -> bool:
    """Return whether an error means that somebody stopped the work, not that the work failed."""
    if error is None or not isinstance(error, Exception):
        return error is not None
    from prefect.exceptions import CancelledRun  # workers also call this, and do not import Prefect

    return isinstance(error, CancelledRun)


@contextmanager
def stopping() -> Iterator[None]:
    """Kill the workers of this process and, while inside, keep its tasks from waiting and from starting others."""
    _requested.set()
    with _lock:
        for worker in _workers:
            worker.kill()
    try:
        yield
    finally:
        _requested.clear()


@contextmanager
def killed_when_stopping(worker: Worker) -> Iterator[None]:
    """Have a worker killed by `stopping`, and by any error that ends the block.

    Raises:
        asyncio.CancelledError: `stopping` killed it, or would have; Prefect does not retry after that.
    """
    with _lock:
        _workers.append(worker)
    try:
        check()
        yield
        check()
    finally:
        with _lock:
            _workers.remove(worker)
        if worker.stdin is not None:
            with suppress(OSError):
                worker.stdin.close()  # ends the processes that a launcher started
        worker.kill()
        worker.wait()


def check() -> None:
    """Raise asyncio.CancelledError while `stopping`."""
    if _requested.is_set():
        raise CancelledError("the flow was interrupted")


def sleep(seconds: float) -> None:
    """Wait, as time.sleep does. Raises asyncio.CancelledError as soon as `stopping` begins."""
    if _requested.wait(seconds):
        raise CancelledError("the flow was interrupted")
