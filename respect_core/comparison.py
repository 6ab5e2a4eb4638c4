"""Two policies on the same contexts (section 5: concurrent deployments; figures 21 to 23): FOR MEASURING ONLY.

Not in the paper. Contexts differ in how hard they are; differences on the same contexts leave that out, and so tell
more from fewer games than two intervals beside each other.

Shapes: N contexts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from respect_core.bootstrap import LEVEL, RESAMPLES, Estimate, Floats, bootstrap
from respect_core.metrics import COLUMNS, Counts, counts, rates
from respect_core.store import Store
from respect_core.tables import read_table


@dataclass(frozen=True)
class Paired:
    """The first policy's figures minus the second's, over the contexts that both played."""

    games: int  # of each
    success: Estimate
    turns_per_game: Estimate
    click_accuracy: Estimate | None
    wins: int  # contexts on which the first alone succeeded
    losses: int  # and the second alone
    ties: int
    p: float  # exact sign test of wins against losses, two-sided (McNemar's)


def paired(first: Counts, second: Counts, *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL) -> Paired:
    """Differences between two policies, with intervals that draw contexts, each with both of its games.

    Args:
        first, second: metrics.COLUMNS of each game [N, 4]; a row of both is of the same context.

    Raises:
        ValueError: no games, or not as many of each.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} games against {len(second)}; give both games of each context")
    width, games = len(COLUMNS), len(first)

    def statistic(sums: Floats) -> Floats:
        return np.asarray(rates(sums[..., :width], games) - rates(sums[..., width:], games))

    pairs = np.concatenate([first, second], axis=1)
    success, turns, clicks = bootstrap(pairs, statistic, resamples=resamples, seed=seed, level=level)
    assert success is not None and turns is not None  # there are games
    won = first[:, 0] - second[:, 0]
    wins, losses = int((won > 0).sum()), int((won < 0).sum())
    return Paired(games, success, turns, clicks, wins, losses, games - wins - losses, sign_test(wins, losses))


def sign_test(wins: int, losses: int) -> float:
    """Probability of at least so uneven a split if either side of each were equally likely; 1 without any."""
    trials = wins + losses
    tail = sum(comb(trials, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**trials)


def read_paired(store: Store, round: int, first: str, second: str) -> tuple[Counts, Counts]:
    """Games of two variants in a round on the contexts that both played: metrics.COLUMNS [N, 4] of each.

    Contexts are the same if they have the same images and targets, in whatever order. Of several games of a variant
    on one context the first by id counts. Raises as reading tables does.
    """
    one, other = _by_context(store, round, first), _by_context(store, round, second)
    shared = sorted(one.keys() & other.keys())
    return _stacked([one[key] for key in shared]), _stacked([other[key] for key in shared])


_Context = tuple[tuple[str, ...], tuple[str, ...]]


def _by_context(store: Store, round: int, variant: str) -> dict[_Context, NDArray[np.int64]]:
    """COLUMNS of the games of a partition by images and targets, sorted."""
    turns = read_table(store, "turns", [round], [variant], ["interaction_id", "context", "action"]).to_pylist()
    columns = ["interaction_id", "targets", "success", "turns"]
    outcomes = read_table(store, "outcomes", [round], [variant], columns).to_pylist()
    targets = {row["interaction_id"]: row["targets"] for row in outcomes if row["success"] is not None}
    contexts = {row["interaction_id"]: row["context"] for row in turns}
    found: dict[_Context, NDArray[np.int64]] = {}
    for game, row in zip(sorted(targets), counts(turns, outcomes), strict=True):
        found.setdefault((tuple(sorted(contexts[game])), tuple(sorted(targets[game]))), row)
    return found


def _stacked(rows: list[NDArray[np.int64]]) -> Counts:
    return np.array(rows, dtype=np.int64).reshape(-1, len(COLUMNS))
