"""Bootstrap figures made of sums, such as rates, by percentiles (figures 4 and 5: 95% intervals, 10,000 resamples).

Whole games are resampled: the turns of a game depend on each other, and resampling turns gives too narrow an interval.
The paper does not say what it resamples.

How often each game is drawn depends only on the number of games. So the draws for a number of games are made once and
cached: all figures of the same games are resampled together, and each costs a matrix product.

Shapes: T turns, N resampled units (games), R resamples, C columns that are added up, M figures made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
LEVEL = 0.95
_CHUNK = 150_000  # units drawn at a time, which fit into a core's cache
_TOGETHER = 8  # resamples of more units than that which are added up in one pass over the rows
_CACHEABLE = 10_000_000  # most units of draws that are worth caching: 20 MB

Floats = NDArray[np.float64]
Games = Sequence[str] | NDArray[Any]
"""The game of each turn: its id, or a number in the order of the ids."""
Statistic = Callable[[Floats], Floats]
"""Turns sums [..., C] into figures [..., M]; nan where a figure is not defined."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its percentile bootstrap interval."""

    value: float
    low: float
    high: float


def bootstrap(
    rows: ArrayLike, statistic: Statistic, *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> list[Estimate | None]:
    """Return M figures of the sums of rows [N, C], each with its interval; None for one that is not defined.

    Resamples in which a figure is not defined do not count for its interval.

    Raises:
        ValueError: no rows.
    """
    table = _table(rows)
    return estimates(statistic(table.sum(0)), statistic(resampled(table, resamples, seed)), level)


def difference(
    first: ArrayLike, second: ArrayLike, statistic: Statistic, *, resamples: int = RESAMPLES
) -> list[Estimate | None]:
    """Return the figures of `second` minus those of `first`, two independent samples.

    Raises:
        ValueError: no rows in one of them.
    """
    one, other, rng = _table(first), _table(second), np.random.default_rng(0)
    values = statistic(other.sum(0)) - statistic(one.sum(0))
    return estimates(values, -statistic(resampled(one, resamples, rng)) + statistic(resampled(other, resamples, rng)))


def ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """Return sum over sum, with an interval that resamples the pairs, e.g. exact matches and turns of each game.

    Raises:
        ValueError: the denominators add up to 0.
    """
    rows = np.stack([np.asarray(numerators, float), np.asarray(denominators, float)], axis=1)
    estimate = bootstrap(rows, quotients, resamples=resamples, seed=seed, level=level)[0] if len(rows) else None
    if estimate is None:
        raise ValueError("nothing to divide by: no turns")
    return estimate


def linear_ratio(numerators: ArrayLike, denominators: ArrayLike, *, tail: float) -> Estimate:
    """Return sum over sum, each end of whose interval is wrong with probability `tail`, however small that is.

    The interval is Student's, from the residuals of the ratio (Cochran, Sampling Techniques, 1977, section 2.11): a
    bootstrap of 10,000 resamples tells nothing of tails such as 0.0001. One pair has an interval without ends.

    Raises:
        ValueError: the denominators add up to 0.
    """
    above, below = np.asarray(numerators, float), np.asarray(denominators, float)
    if not below.sum():
        raise ValueError("nothing to divide by: no turns")
    n, value = len(above), float(above.sum() / below.sum())
    if n == 1:
        return Estimate(value, -np.inf, np.inf)
    residuals = (above - value * below) / below.mean()
    half = student_quantile(tail, n - 1) * sqrt(float(residuals @ residuals) / (n - 1) / n)
    return Estimate(value, value - half, value + half)


def student_quantile(tail: float, freedom: int) -> float:
    """Return what Student's t exceeds with probability `tail` (Abramowitz and Stegun 26.7.5, from 10 degrees on)."""
    z = -NormalDist().inv_cdf(tail)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def quotients(sums: Floats) -> Floats:
    """Return the rates a / b, c / d, ... of columns a, b, c, d, ...; nan where b, d, ... is 0. A `Statistic`."""
    above, below = sums[..., ::2], sums[..., 1::2]
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)


def by_game(games: Games, columns: ArrayLike) -> Floats:
    """Add up rows of turns [T, C] by game [N, C], in order of the games' ids.

    Raises:
        ValueError: ids and rows differ in number.
    """
    table = np.asarray(columns, float)
    if len(games) != len(table):
        raise ValueError(f"{len(table)} turns with the games of {len(games)}; each turn has one")
    places_T, units = places(games)
    sums = np.zeros((units, *table.shape[1:]))
    np.add.at(sums, places_T, table)
    return sums


def places(games: Games) -> tuple[NDArray[np.int64], int]:
    """Return the place of each turn's game among the games in order of their ids [T], and how many games there are."""
    if isinstance(games, np.ndarray):
        found, places_T = np.unique(games, return_inverse=True)
        return places_T, len(found)
    place = {game: number for number, game in enumerate(sorted(set(games)))}
    return np.array([place[game] for game in games], dtype=np.int64), len(place)


def estimates(values: Floats, drawn: Floats, level: float = LEVEL) -> list[Estimate | None]:
    """Return M figures [M] with percentile intervals of resampled ones [R, M]; None for a figure that is nan."""
    result: list[Estimate | None] = []
    for column, value in enumerate(values):
        if np.isnan(value):
            result.append(None)
            continue
        low, high = np.nanpercentile(drawn[:, column], [50 * (1 - level), 50 * (1 + level)])
        result.append(Estimate(float(value), float(low), float(high)))
    return result


def resampled(rows: NDArray[Any], resamples: int, source: int | np.random.Generator) -> Floats:
    """Return the column sums [R, C] of resamples: N of the N rows, drawn with replacement.

    Args:
        source: a seed, whose draws are cached for the next figures, or a generator to draw from.
    """
    n = len(rows)
    counts: Iterable[NDArray[np.uint16]]
    if isinstance(source, int) and n * resamples <= _CACHEABLE:
        counts = _cached_counts(n, resamples, source)
    else:
        counts = _draw_counts(n, resamples, np.random.default_rng(source))
    table, pieces = np.asarray(rows, float), iter(counts)
    together = _TOGETHER if n > _CHUNK else 1
    sums = []
    while some := list(islice(pieces, together)):
        sums.append((some[0] if len(some) == 1 else np.concatenate(some)).astype(float) @ table)
    return np.concatenate(sums)


@lru_cache(maxsize=8)
def _cached_counts(n: int, resamples: int, seed: int) -> tuple[NDArray[np.uint16], ...]:
    return tuple(_draw_counts(n, resamples, np.random.default_rng(seed)))


def _draw_counts(n: int, resamples: int, rng: np.random.Generator) -> Iterator[NDArray[np.uint16]]:
    """Yield how often each of n units is drawn [r, n], a chunk of resamples at a time; its size changes no draw."""
    step = max(1, _CHUNK // n)
    for start in range(0, resamples, step):
        units = rng.integers(n, size=(min(step, resamples - start), n))
        units += np.arange(len(units))[:, None] * n
        yield np.bincount(units.ravel(), minlength=units.size).astype(np.uint16).reshape(units.shape)


def _table(rows: ArrayLike) -> Floats:
    table = np.asarray(rows, float)
    if not len(table):
        raise ValueError("nothing to measure: no games")
    return table


def binomial_tail(found: int, n: int, share: float) -> float:
    """Return the probability of `found` or more of n, where each is found with this probability."""
    if found <= 0 or share >= 1:
        return 1.0
    if share <= 0:
        return 0.0
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(found, n + 1)
    log_p = log_factorial[n] - log_factorial[k] - log_factorial[n - k] + k * np.log(share) + (n - k) * np.log1p(-share)
    return float(min(1.0, np.exp(log_p).sum()))


def holm(p_values: Sequence[float], level: float) -> list[bool]:
    """Return which hypotheses are rejected so that any is wrongly with at most this probability (Holm 1979)."""
    rejected = [False] * len(p_values)
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[place] > level / (len(p_values) - rank):
            break
        rejected[place] = True
    return rejected
