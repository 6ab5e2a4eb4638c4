"""Compare two policies on the same contexts (section 5: concurrent deployments; figures 21 to 23): FOR MEASURING ONLY.

Not in the paper. Contexts differ in difficulty; differences on the same contexts cancel that, and so show more from
fewer games than two separate intervals do. If a policy played a context more than once (an abandoned game is handed out
again, or a study has several games per context), the context counts with the mean of its games.

Shapes: N contexts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np

from respect_core.measuring.metrics import COLUMNS, Counts, rates
from respect_core.stats import RESAMPLES, Estimate, Floats, bootstrap


@dataclass(frozen=True)
class Paired:
    """Figures of the first policy minus those of the second, over the contexts that both played."""

    contexts: int
    success: Estimate
    turns_per_game: Estimate
    click_accuracy: Estimate | None
    wins: int  # contexts on which the first policy succeeded more often than the second
    losses: int  # contexts on which the second did
    ties: int
    p: float  # exact sign test of wins against losses, two-sided (McNemar's)


def paired(first: Counts | Floats, second: Counts | Floats, *, resamples: int = RESAMPLES) -> Paired:
    """Compute the differences between two policies, with intervals that resample contexts, each with both's games.

    Args:
        first, second: metrics.COLUMNS of each context [N, 4], mean over the policy's games there; equal rows are of
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
    success, turns, clicks = bootstrap(pairs, statistic, resamples=resamples)
    assert success is not None and turns is not None  # there are contexts
    difference = first[:, 0] - second[:, 0]
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    return Paired(contexts, success, turns, clicks, wins, losses, contexts - wins - losses, sign_test(wins, losses))


def sign_test(wins: int, losses: int) -> float:
    """Return the probability of a split at least this uneven if wins and losses were equally likely; 1 without any."""
    trials = wins + losses
    tail = sum(comb(trials, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**trials)
