"""Choose the version that acts in each game of a server, without network or registry."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from respect_core.interaction import Interaction, Turn

Version = TypeVar("Version", bound=Hashable)


@dataclass(frozen=True)
class Offer(Generic[Version]):
    """The versions that new games of a variant get: the deployed one, or a candidate where chance chooses it.

    `share`: of new games, for whoever asks; `chosen` says which, by the game's id.
    """

    deployed: Version
    candidate: Version | None = None
    share: float = 0.0
    chosen: Callable[[str], bool] = lambda _: False

    def version(self, game: str) -> Version:
        """Return the version that a new game gets."""
        return self.candidate if self.candidate is not None and self.chosen(game) else self.deployed

    @property
    def versions(self) -> tuple[Version, ...]:
        """The versions among which chance chooses."""
        return (self.deployed,) if self.candidate is None else (self.deployed, self.candidate)


class Roster(Generic[Version]):
    """The versions that act: one on offer in a new game, and in a running game the one that it began with.

    A game ends on `end`, after `idle` seconds without a turn, or when more than `most` run and it has been idle the
    longest. Methods may be called by several threads.

    Args:
        clock: seconds, for tests.
    """

    def __init__(
        self, *, idle: float = 1800.0, most: int = 100_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._idle, self._most, self._clock = idle, most, clock
        self._lock = threading.Lock()
        self._offers: dict[str, Offer[Version]] = {}
        self._games: OrderedDict[tuple[str, str], tuple[Version, float]] = OrderedDict()  # longest idle first

    def deploy(self, variant: str, version: Version) -> None:
        """Give new games of the variant this version from now on."""
        self.offer(variant, Offer(version))

    def offer(self, variant: str, offer: Offer[Version]) -> None:
        """Give new games of the variant one of these versions from now on."""
        with self._lock:
            self._offers[variant] = offer

    def withdraw(self, variant: str) -> None:
        """Give new games of the variant no candidate from now on."""
        with self._lock:
            if variant in self._offers:
                self._offers[variant] = Offer(self._offers[variant].deployed)

    def offers(self) -> dict[str, Offer[Version]]:
        """Return the versions that new games get, by variant."""
        with self._lock:
            return dict(self._offers)

    def deployed(self) -> dict[str, Version]:
        """Return the deployed version of each variant."""
        return {variant: offer.deployed for variant, offer in self.offers().items()}

    def version(self, variant: str, game: str) -> Version:
        """Return the version for a turn of a game, which begins with its first turn here.

        Raises:
            KeyError: nothing of the variant is deployed.
        """
        return self._turn(variant, game, lambda: self._offers[variant].version(game))

    def begin(self, variant: str, game: str, version: Version) -> Version:
        """Return the version for a turn as `version` does, but give a new game this one, whatever is deployed."""
        return self._turn(variant, game, lambda: version)

    def runs(self, variant: str, game: str) -> bool:
        """Return whether the game has begun here and is not over."""
        with self._lock:
            entry = self._games.get((variant, game))
            return entry is not None and self._clock() - entry[1] <= self._idle

    def _turn(self, variant: str, game: str, new: Callable[[], Version]) -> Version:
        with self._lock:
            now, key = self._clock(), (variant, game)
            entry = self._games.pop(key, None)
            is_running = entry is not None and now - entry[1] <= self._idle
            version = entry[0] if entry is not None and is_running else new()
            self._games[key] = version, now
            while len(self._games) > self._most:
                self._games.popitem(last=False)
            return version

    def end(self, variant: str, game: str) -> None:
        """End a game; do nothing if it is unknown."""
        with self._lock:
            self._games.pop((variant, game), None)

    def running(self) -> Counter[Version]:
        """Count games by the version that acts in them, after dropping idle ones."""
        with self._lock:
            oldest = self._clock() - self._idle
            while self._games and next(iter(self._games.values()))[1] < oldest:
                self._games.popitem(last=False)
            return Counter(version for version, _ in self._games.values())


def seeded(game: str, seed: int, context: Sequence[str], turns: Sequence[Turn]) -> Interaction:
    """Return a game whose draws, under a policy of seed 0, depend on `seed`, game and turn alone.

    Equal seeds give equal actions, whatever other games are played at the same time.
    """
    return Interaction(f"{seed}/{game}", tuple(context), tuple(turns))
