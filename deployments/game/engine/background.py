"""Run work in the background, once or for as long as the server runs, and log its failures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from deployments.failures import place_of

log = logging.getLogger(__name__)
Work = Coroutine[Any, Any, None]


class Background:
    """Background tasks of the running event loop.

    Args:
        on_failure: called with the name of work that should keep running and has failed.
        settled: seconds without a failure after which restarted work counts as running.
        pause: seconds before the first restart; twice as long each time, up to half a minute.
    """

    def __init__(self, on_failure: Callable[[str], None], *, settled: float = 10.0, pause: float = 1.0) -> None:
        self._on_failure, self._settled, self._pause = on_failure, settled, pause
        self.down: set[str] = set()
        """Names of work that has failed and does not run again yet."""
        self._tasks: set[asyncio.Task[None]] = set()

    def once(self, work: Work) -> None:
        """Run work until it is done, or `close`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._log_failure)

    def keep(self, name: str, work: Callable[[], Work]) -> None:
        """Keep work running until `close`: restart it when it fails."""
        self.once(self._keep_running(name, work))

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_running(self, name: str, work: Callable[[], Work]) -> None:
        pause = self._pause
        while True:
            settle_timer = asyncio.get_running_loop().call_later(self._settled, self.down.discard, name)
            try:
                await work()
            except Exception as error:
                log.error("%s failed and is restarted: %s", name, place_of(error))
                self._on_failure(name)
            finally:
                settle_timer.cancel()
            pause = min(30.0, 2 * pause) if name in self.down else self._pause
            self.down.add(name)
            await asyncio.sleep(pause)

    def _log_failure(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s", place_of(error))
