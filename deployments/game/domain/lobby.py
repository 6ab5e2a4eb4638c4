"""Match people who wait for another person, first come, first served, and release them after a time.

Pure: time is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from deployments.game.domain.assignment import Slot
from deployments.game.domain.protocol import Lobby as Message

_GONE_SECONDS = 15.0
"""Seconds without a socket until somebody who waits counts as gone; reloading a page takes fewer."""


@dataclass
class LobbyEntry:
    """A waiting player. `slot`: the game that their study assigned to them, if they are in one."""

    player: str
    slot: Slot | None
    since: float
    until: float
    last_seen: float  # when their socket was last there


class Lobby:
    """Players who wait for a partner.

    Args:
        seconds: how long a player waits before being released.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[str, LobbyEntry] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[LobbyEntry]:
        return iter(self._waiting.values())

    def __contains__(self, player: str) -> bool:
        return player in self._waiting

    def join(self, player: str, slot: Slot | None, now: float) -> None:
        self._waiting[player] = LobbyEntry(player, slot, now, now + self._seconds, now)

    def stay(self, player: str, now: float) -> bool:
        """Restart the time of a player's wait; return False for somebody who does not wait."""
        waiting = self._waiting.get(player)
        if waiting is not None:
            waiting.until = now + self._seconds
        return waiting is not None

    def leave(self, player: str) -> LobbyEntry | None:
        return self._waiting.pop(player, None)

    def put_back(self, waiting: LobbyEntry) -> None:
        """Let somebody whose game did not begin after all continue to wait, before those who came later."""
        self._waiting = {entry.player: entry for entry in sorted([*self._waiting.values(), waiting], key=_since)}

    def partner(self, fits: Callable[[LobbyEntry], bool]) -> LobbyEntry | None:
        """Take whoever has waited longest, of those who fit, out of the lobby."""
        longest = next((entry for entry in self._waiting.values() if fits(entry)), None)
        return self.leave(longest.player) if longest else None

    def message(self, player: str, now: float) -> Message | None:
        """Return what a waiting player is told; None for somebody who does not wait."""
        waiting = self._waiting.get(player)
        if waiting is None:
            return None
        left = max(0.0, waiting.until - now)
        return Message(waiting_seconds=round(now - waiting.since, 1), times_out_in=round(left, 1))

    def expire(self, is_here: Callable[[str], bool], now: float) -> Iterator[tuple[LobbyEntry, bool]]:
        """Take out those whose wait ends; yield each with whether they stayed until the end of it."""
        for waiting in list(self._waiting.values()):
            if is_here(waiting.player):
                waiting.last_seen = now
            if now - waiting.last_seen > _GONE_SECONDS or now >= waiting.until:
                del self._waiting[waiting.player]
                yield waiting, now - waiting.last_seen <= _GONE_SECONDS


def _since(waiting: LobbyEntry) -> float:
    return waiting.since
