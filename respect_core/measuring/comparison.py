"""Compare two policies on the same contexts (section 5: concurrent deployments; figures 21 to 23): FOR MEASURING ONLY.

Not in the paper. Contexts differ in difficulty; differences on the same contexts cancel that, and so show more from
fewer games than two separate intervals do. If a policy played a context more than once (an abandoned game is handed out
again, or a study has several games per context), the context counts with the mean of its games.

Shapes: N contexts.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import comb
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from respect_core.measuring.metrics import COLUMNS, Counts, rates
from respect_core.stats import RESAMPLES, Estimate, Floats, bootstrap
from respect_core.store.sorting import sorted_groups

_CONTEXTS = pa.schema([("context", pa.string()), *((name, pa.int64()) for name in COLUMNS)])


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


@dataclass(frozen=True)
class Contexts:
    """Different contexts with targets, in order of their images' ids: a hash of each, and its games' mean COLUMNS."""

    hashes: NDArray[np.uint64]  # [N]
    columns: Floats  # [N, 4]


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


def context_key(images: Iterable[str], targets: Iterable[str]) -> str | None:
    """Join a game's images and targets to a key; None if it has neither: it is no task that another could have.

    Keys are in the order of the sorted ids.
    """
    parts = sorted(images), sorted(targets)
    return "\0".join("\1".join(each) for each in parts) if any(parts) else None


def context_batch(rows: Sequence[Sequence[str | int]]) -> pa.RecordBatch:
    """Make a batch for `by_context` of the key and the COLUMNS of games."""
    columns = list(zip(*rows, strict=True)) or [()] * len(_CONTEXTS)
    arrays = [pa.array(column, each.type) for column, each in zip(columns, _CONTEXTS, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_CONTEXTS)


def by_context(batches: Iterable[pa.RecordBatch], scratch: Path | None = None) -> Contexts:
    """Average the games of each context, in bounded memory (`sorted_groups`)."""
    hashes, columns = array("Q"), array("d")
    for group in sorted_groups(batches, ["context"], scratch):
        rows = zip(*(group[name].to_pylist() for name in _CONTEXTS.names), strict=True)
        for context, of_context in groupby(rows, itemgetter(0)):
            hashes.append(hash_of(context))
            columns.extend(np.mean([row[1:] for row in of_context], axis=0))
    return Contexts(np.frombuffer(hashes, np.uint64), np.frombuffer(columns).reshape(-1, len(COLUMNS)))


def hash_of(name: str) -> int:
    """Hash a name to 8 bytes, which tell it from others."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
