from __future__ import annotations

from dataclasses import dataclass

from respect_core.bootstrap import Estimate
from respect_core.store import Store
from respect_core.metrics import Counts


@dataclass(frozen=True)
class Paired:
    """Differences are first minus second, game by game on the same contexts."""

    games: int
    success: Estimate
    turns_per_game: Estimate
    click_accuracy: Estimate | None
    wins: int  # contexts that the first alone won
    losses: int
    ties: int
    p: float  # exact sign test of wins against losses, two-sided


def paired(first: Counts, second: Counts) -> Paired:
    raise NotImplementedError


def read_paired(store: Store, round: int, first: str, second: str) -> tuple[Counts, Counts]:
    """Games of two variants on the same contexts."""
    raise NotImplementedError
