from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from respect_core.bootstrap import Estimate


@dataclass(frozen=True)
class Precision:
    pass


@dataclass(frozen=True)
class Confusion:
    """`matrix[a][p]`: share of all turns; rows actual -1, 0, +1; columns `predicted`: -1, +1 binary, -1, 0, +1 ternary."""

    decoder: str
    turns: int
    predicted: tuple[int, ...]
    matrix: tuple[tuple[float, ...], ...]
    accuracy: Estimate  # the diagonal
    precision_strict: Estimate | None
    recall_strict: Estimate | None
    precision_lenient: Estimate | None
    recall_lenient: Estimate | None


@dataclass(frozen=True)
class Bin:
    low: float
    high: float
    turns: int
    confidence: float
    positive: Estimate


@dataclass(frozen=True)
class Calibration:
    turns: int
    bins: tuple[Bin, ...]  # those with turns
    ece: Estimate
    brier: Estimate


def confusion(actual: Sequence[int], predicted: Sequence[int], decoder: str, units: Sequence[Hashable] | None = None) -> Confusion:
    """`units`: the game of each turn; None: each turn is drawn by itself."""
    raise NotImplementedError


def calibration(scores: Sequence[float], actual: Sequence[int], units: Sequence[Hashable] | None = None, bins: int = 10) -> Calibration:
    raise NotImplementedError
