"""Serving without network or registry: requests gathered into passes, and the version that acts in each game."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from respect_core.interaction import Interaction, Turn

Version = TypeVar("Version", bound=Hashable)


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
