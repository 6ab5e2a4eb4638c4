"""Gather requests for one model into micro-batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

from respect_core.errors import ExpectedError

Item = TypeVar("Item")
Result = TypeVar("Result")


class OverloadedError(ExpectedError):
    """Raised when the queue of requests is full; try again later."""


class Batcher(Generic[Item, Result]):
    """A thread that does the work of many callers in passes.

    A pass takes the items in the queue and those that arrive within `wait` seconds of its first; items that arrive
    while it runs wait for the next. If a pass of several items fails, each is done alone, so that one cannot fail the
    others.

    Args:
        work: computes the results of items, in order. Only this thread calls it.
        most: maximum number of items in a pass.
        wait: seconds.
        queue: maximum number of items that wait.
        observe: called with the number of items before each pass.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        most: int = 64,
        wait: float = 0.004,
        queue: int = 1024,
        observe: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._work, self._most, self._wait, self._observe = work, most, wait, observe
        self._queue: Queue[tuple[Item, Future[Result]] | None] = Queue(queue)
        self._thread = threading.Thread(target=self._run, name="passes", daemon=True)
        self._thread.start()

    def submit(self, item: Item) -> Future[Result]:
        """Queue an item; return the future of its result, or of what `work` raised.

        Raises:
            OverloadedError: the queue is full.
        """
        future: Future[Result] = Future()
        try:
            self._queue.put_nowait((item, future))
        except Full:
            raise OverloadedError(f"{self._queue.maxsize} requests are waiting") from None
        return future

    @property
    def waiting(self) -> int:
        """Number of items in the queue."""
        return self._queue.qsize()

    def close(self) -> None:
        """Finish the items submitted so far, then stop. Submit nothing afterwards."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while self._pass():
            pass

    def _pass(self) -> bool:
        """Gather items and do them; return False once the thread is to stop.

        Runs as a function of its own so that between passes nothing refers to an item.
        """
        entries = [self._queue.get()]
        deadline = time.monotonic() + self._wait
        while entries[-1] is not None and len(entries) < self._most:
            try:
                entries.append(self._queue.get(timeout=max(0.0, deadline - time.monotonic())))
            except Empty:
                break
        batch = [each for each in entries if each is not None and each[1].set_running_or_notify_cancel()]
        if batch:
            self._observe(len(batch))
            self._do(batch)
        return entries[-1] is not None

    def _do(self, batch: Sequence[tuple[Item, Future[Result]]]) -> None:
        try:
            results = self._work([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items")
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
            else:
                for each in batch:
                    self._do([each])
        else:
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)
