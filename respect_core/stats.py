"""Percentile bootstrap of figures made of sums, such as rates (figures 4 and 5: 95% intervals, 10,000 resamples).

What is drawn are games, whole: the turns of a game depend on each other, and an interval that draws turns is too
narrow. The paper does not say what it draws.

How often each game is drawn depends on how many there are and on nothing else. So the draws for a number of games are
made once and kept: all figures of the same games are resampled together, and each costs a matrix product.

Shapes: T turns, N units that are drawn (games), R resamples, C columns that are added up, M figures made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
LEVEL = 0.95
_AT_ONCE = 150_000  # units drawn in one piece, which stays in a core's cache
_KEPT = 10_000_000  # draws that are worth keeping hold at most so many units: 20 MB

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""From sums [..., C] to figures [..., M]; nan where a figure is not defined."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its percentile bootstrap interval."""

    value: float
    low: float
    high: float


def bootstrap(
    rows: ArrayLike, statistic: Statistic, *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> list[Estimate | None]:
    """M figures of the sums of rows [N, C], each with its interval; None for one that is not defined.

    Resamples in which a figure is not defined are left out of its interval.

    Raises:
        ValueError: no rows.
    """
    table = _table(rows)
    return estimates(statistic(table.sum(0)), statistic(resampled(table, resamples, seed)), level)


def difference(
    first: ArrayLike,
    second: ArrayLike,
    statistic: Statistic,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> list[Estimate | None]:
    """Figures of `second` minus those of `first`, two samples that have nothing to do with each other.

    Raises:
        ValueError: no rows in one of them.
    """
    one, other, rng = _table(first), _table(second), np.random.default_rng(seed)
    values = statistic(other.sum(0)) - statistic(one.sum(0))
    return estimates(
        values, -statistic(resampled(one, resamples, rng)) + statistic(resampled(other, resamples, rng)), level
    )


def ratio(
    numerators: Sequence[float],
    denominators: Sequence[float],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """Sum over sum, with an interval that resamples the pairs, e.g. exact matches and turns of each game.

    Raises:
        ValueError: the denominators add up to nothing.
    """
    rows = np.stack([np.asarray(numerators, float), np.asarray(denominators, float)], axis=1)
    found = bootstrap(rows, quotients, resamples=resamples, seed=seed, level=level)[0] if len(rows) else None
    if found is None:
        raise ValueError("nothing to divide by: no turns")
    return found


def quotients(sums: Floats) -> Floats:
    """The statistic of rates: of columns a, b, c, d, ... it makes a / b, c / d, ...; nan where b, d, ... is 0."""
    above, below = sums[..., ::2], sums[..., 1::2]
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)


def by_game(games: Sequence[str], columns: ArrayLike) -> Floats:
    """Rows of turns [T, C] added up by game [N, C], in order of the games' ids.

    Raises:
        ValueError: not one id for each row.
    """
    table = np.asarray(columns, float)
    if len(games) != len(table):
        raise ValueError(f"{len(table)} turns with the games of {len(games)}; each turn has one")
    places = {game: place for place, game in enumerate(sorted(set(games)))}
    sums = np.zeros((len(places), *table.shape[1:]))
    np.add.at(sums, [places[game] for game in games], table)
    return sums


def estimates(values: Floats, drawn: Floats, level: float = LEVEL) -> list[Estimate | None]:
    """M figures [M] with percentile intervals of what was drawn [R, M]; None for a figure that is nan."""
    found: list[Estimate | None] = []
    for column, value in enumerate(values):
        if np.isnan(value):
            found.append(None)
            continue
        low, high = np.nanpercentile(drawn[:, column], [50 * (1 - level), 50 * (1 + level)])
        found.append(Estimate(float(value), float(low), float(high)))
    return found


def resampled(rows: NDArray[Any], resamples: int, source: int | np.random.Generator) -> Floats:
    """Column sums of rows drawn with replacement, as many as there are [R, C].

    Args:
        source: a seed, whose draws are kept for the next figures, or a generator to go on with.
    """
    n = len(rows)
    times: Iterable[NDArray[np.uint16]]
    if isinstance(source, int) and n * resamples <= _KEPT:
        times = _kept(n, resamples, source)
    else:
        times = _drawn(n, resamples, np.random.default_rng(source))
    table = rows.astype(float)
    return np.concatenate([piece.astype(float) @ table for piece in times])


@lru_cache(maxsize=8)
def _kept(n: int, resamples: int, seed: int) -> tuple[NDArray[np.uint16], ...]:
    return tuple(_drawn(n, resamples, np.random.default_rng(seed)))


def _drawn(n: int, resamples: int, rng: np.random.Generator) -> Iterator[NDArray[np.uint16]]:
    """How often each of n units was drawn [r, n], for all resamples in pieces; the pieces' size changes no draw."""
    step = max(1, _AT_ONCE // n)
    for start in range(0, resamples, step):
        drawn = rng.integers(n, size=(min(step, resamples - start), n))
        drawn += np.arange(len(drawn))[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=drawn.size).astype(np.uint16).reshape(drawn.shape)


def _table(rows: ArrayLike) -> Floats:
    table = np.asarray(rows, float)
    if not len(table):
        raise ValueError("nothing to measure: no games")
    return table
