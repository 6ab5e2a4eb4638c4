"""Two policies on the same contexts (section 5: concurrent deployments; figures 21 to 23): FOR MEASURING ONLY.

Not in the paper. Contexts differ in how hard they are; differences on the same contexts leave that out, and so tell
more from fewer games than two intervals beside each other. Where a policy played a context more than once (a game that
was broken off is given out again, or a study wants several), the mean of its games there stands for the context.

Shapes: N contexts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np

from respect_core.measuring.metrics import COLUMNS, Counts, rates
from respect_core.stats import LEVEL, RESAMPLES, Estimate, Floats, bootstrap


@dataclass(frozen=True)
class Paired:
    """The first policy's figures minus the second's, over the contexts that both played."""

    contexts: int
    success: Estimate
    turns_per_game: Estimate
    click_accuracy: Estimate | None
    wins: int  # contexts on which the first alone succeeded, or more often than the second
    losses: int  # and the second
    ties: int
    p: float  # exact sign test of wins against losses, two-sided (McNemar's)


def paired(
    first: Counts | Floats,
    second: Counts | Floats,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Paired:
    """Differences between two policies, with intervals that draw contexts, each with the games of both.

    Args:
        first, second: metrics.COLUMNS of each context [N, 4], mean over the policy's games there; a row of both is of
            the same context.

    Raises:
        ValueError: no contexts, or not as many of each.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} contexts against {len(second)}; give both policies' games of each")
    width, contexts = len(COLUMNS), len(first)

    def statistic(sums: Floats) -> Floats:
        return np.asarray(rates(sums[..., :width], contexts) - rates(sums[..., width:], contexts))

    pairs = np.concatenate([first, second], axis=1)
    success, turns, clicks = bootstrap(pairs, statistic, resamples=resamples, seed=seed, level=level)
    assert success is not None and turns is not None  # there are contexts
    won = first[:, 0] - second[:, 0]
    wins, losses = int((won > 0).sum()), int((won < 0).sum())
    return Paired(contexts, success, turns, clicks, wins, losses, contexts - wins - losses, sign_test(wins, losses))


def sign_test(wins: int, losses: int) -> float:
    """Probability of at least so uneven a split if either side of each were equally likely; 1 without any."""
    trials = wins + losses
    tail = sum(comb(trials, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**trials)
