"""Serving without network or registry: requests gathered into passes, and the version that acts in each game."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

from respect_core.interaction import Interaction, Turn

Item = TypeVar("Item")
Result = TypeVar("Result")
Version = TypeVar("Version", bound=Hashable)


class Overloaded(RuntimeError):
    """More requests wait than the server takes on; try again later."""


class Batcher(Generic[Item, Result]):
    """A thread that does the work of many callers in passes.

    A pass takes what waits, and what comes within `wait` seconds of its first item; what comes while it runs waits for
    the next. Where a pass of several items fails, each is done by itself, so that one cannot fail the others.

    Args:
        work: results of items, in order. Only this thread calls it.
        most: items in a pass.
        wait: seconds.
        queue: items that may wait.
        observe: told the number of items of each pass before it runs.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        most: int = 64,
        wait: float = 0.004,
        queue: int = 1024,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._work, self._most, self._wait, self._observe = work, most, wait, observe
        self._queue: Queue[tuple[Item, Future[Result]] | None] = Queue(queue)
        self._thread = threading.Thread(target=self._run, name="passes", daemon=True)
        self._thread.start()

    def submit(self, item: Item) -> Future[Result]:
        """The result to come, or what `work` raised.

        Raises:
            Overloaded: the queue is full.
        """
        future: Future[Result] = Future()
        try:
            self._queue.put_nowait((item, future))
        except Full:
            raise Overloaded(f"{self._queue.maxsize} requests are waiting") from None
        return future

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return self._queue.qsize()

    def close(self) -> None:
        """Do what was submitted before, then end. Submit nothing afterwards."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while self._pass():
            pass

    def _pass(self) -> bool:
        """Gather items and do them; False when it is time to end. Between passes nothing refers to an item."""
        taken = [self._queue.get()]
        deadline = time.monotonic() + self._wait
        while taken[-1] is not None and len(taken) < self._most:
            try:
                taken.append(self._queue.get(timeout=max(0.0, deadline - time.monotonic())))
            except Empty:
                break
        batch = [each for each in taken if each is not None and each[1].set_running_or_notify_cancel()]
        if batch:
            self._observe(len(batch))
            self._do(batch)
        return taken[-1] is not None

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


class Roster(Generic[Version]):
    """Which version acts: the newest deployed one in a new game, and in a running game the one it began with.

    A game ends when it is told so, after `idle` seconds without a turn, or when more than `most` run and it is the one
    that has waited longest. Methods may be called by several threads.

    Args:
        clock: seconds, for tests.
    """

    def __init__(
        self, *, idle: float = 1800.0, most: int = 100_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._idle, self._most, self._clock = idle, most, clock
        self._lock = threading.Lock()
        self._deployed: dict[str, Version] = {}
        self._games: OrderedDict[tuple[str, str], tuple[Version, float]] = OrderedDict()  # longest idle first

    def deploy(self, variant: str, version: Version) -> None:
        """New games of the variant get this version from now on."""
        with self._lock:
            self._deployed[variant] = version

    def deployed(self) -> dict[str, Version]:
        """By variant, what new games get."""
        with self._lock:
            return dict(self._deployed)

    def version(self, variant: str, game: str) -> Version:
        """The version for a turn of a game, which begins with its first turn here.

        Raises:
            KeyError: nothing of the variant is deployed.
        """
        return self._turn(variant, game, lambda: self._deployed[variant])

    def begin(self, variant: str, game: str, version: Version) -> Version:
        """As `version`, but where the game is new it gets this one, whatever is deployed."""
        return self._turn(variant, game, lambda: version)

    def runs(self, variant: str, game: str) -> bool:
        """Whether the game has begun here, and is not over."""
        with self._lock:
            known = self._games.get((variant, game))
            return known is not None and self._clock() - known[1] <= self._idle

    def _turn(self, variant: str, game: str, new: Callable[[], Version]) -> Version:
        with self._lock:
            now, key = self._clock(), (variant, game)
            known = self._games.pop(key, None)
            fresh = known is not None and now - known[1] <= self._idle
            version = known[0] if known is not None and fresh else new()
            self._games[key] = version, now
            while len(self._games) > self._most:
                self._games.popitem(last=False)
            return version

    def end(self, variant: str, game: str) -> None:
        """The game is over; nothing happens where it is not known."""
        with self._lock:
            self._games.pop((variant, game), None)

    def running(self) -> Counter[Version]:
        """Games by the version that acts in them; idle ones are forgotten first."""
        with self._lock:
            oldest = self._clock() - self._idle
            while self._games and next(iter(self._games.values()))[1] < oldest:
                self._games.popitem(last=False)
            return Counter(version for version, _ in self._games.values())


def seeded(game: str, seed: int, context: Sequence[str], turns: Sequence[Turn]) -> Interaction:
    """A game as a policy of seed 0 plays it: what it draws depends on `seed`, game and turn alone, so that equal seeds
    give equal actions, whatever is played beside it."""
    return Interaction(f"{seed}/{game}", tuple(context), tuple(turns))
