"""Compare decoded feedback with annotators' satisfaction (figure 6), or with targets: FOR MEASURING ONLY.

Labels are +1 positive, 0 neutral, -1 negative. Actual labels are `turn_metrics.LABELS` of an annotator's satisfaction,
or `Judge.label`, which tells how the action fits the targets, not what the user thought of it; say which.

An actual neutral (partly right) has two readings, section 6: strict, it is no positive; lenient, it counts as one.

Deviations from the paper, numbered as they are cited elsewhere:
1. There are intervals, which figure 6 does not have; they resample games (`respect_core.stats`).

Shapes: T turns, N games, B bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from respect_core.stats import RESAMPLES, Estimate, Floats, Games, bootstrap, by_game, places, quotients

LABELS = (-1, 0, 1)  # figure 6's order: negative, neutral, positive
Labels = Sequence[int] | NDArray[np.int8]
PREDICTED = {"binary": (-1, 1), "ternary": LABELS}


@dataclass(frozen=True)
class Confusion:
    """One matrix of figure 6 and the figures derived from it.

    `matrix[a][p]` is the share of all turns that are actually LABELS[a] and were decoded as `predicted[p]`. Precision
    and recall are those of positives; None if no turn was decoded as positive, or none is.
    """

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
class ThumbFigures:
    """Decoded labels against users' own thumbs; a neutral label agrees with none.

    Precision and recall are those of negatives; None if no turn was decoded as negative, or no thumb is down.
    """

    turns: int
    thumbs_down: int
    agreement: Estimate | None
    precision_negative: Estimate | None
    recall_negative: Estimate | None


@dataclass(frozen=True)
class LabelFigures:
    """How well a decoder finds one label. None if no turn was decoded as it, or none is actually it."""

    decoded: int  # turns
    actual: int
    precision: Estimate | None
    recall: Estimate | None


@dataclass(frozen=True)
class Bin:
    """Turns whose decoded probability of positive is from `low` to `high`, which only the last bin includes."""

    low: float
    high: float
    turns: int
    confidence: float  # mean probability
    positive: Estimate  # share that is positive


@dataclass(frozen=True)
class Calibration:
    """How well decoded probabilities match shares of positives.

    The interval of `ece` may lie above its value: resamples add noise to every bin, and the noise does not cancel.
    """

    turns: int
    bins: tuple[Bin, ...]  # those with turns
    ece: Estimate  # expected calibration error: mean distance of a bin's share from its probability, over turns
    brier: Estimate  # mean squared distance of probability and outcome


def confusion(
    actual: Labels,
    predicted: Labels,
    decoder: str,
    games: Games | None = None,
    *,
    resamples: int = RESAMPLES,
) -> Confusion:
    """Compute the confusion matrix of a decoder over turns, in any order.

    Args:
        actual, predicted: -1, 0, +1 of each turn.
        decoder: 'binary', which decodes no neutrals, or 'ternary'.
        games: the interaction of each turn; None resamples single turns.

    Raises:
        ValueError: no turns, or not as many of each; an unknown label or decoder.
    """
    if decoder not in PREDICTED:
        raise ValueError(f"decoder {decoder!r} is none of {', '.join(PREDICTED)}")
    _require(len(actual), predicted)
    columns = PREDICTED[decoder]
    cell_T = _places(actual, LABELS, "actual") * len(columns) + _places(predicted, columns, f"{decoder} decoder's")
    unit_T, units = _units(games, len(cell_T))
    shape = (len(LABELS), len(columns))
    rows = _counted(unit_T, units, cell_T, len(LABELS) * len(columns))
    diagonal = np.equal.outer(LABELS, columns)

    def statistic(sums: Floats) -> Floats:
        table = sums.reshape(*sums.shape[:-1], *shape)
        positive, every = table[..., -1], table.sum(-1)  # turns decoded as positive, and all turns, by actual label
        strict, lenient = positive[..., 2], positive[..., 1] + positive[..., 2]
        right = (table * diagonal).sum((-1, -2))
        pairs = (
            *(right, every.sum(-1)),
            *(strict, positive.sum(-1)),
            *(strict, every[..., 2]),
            *(lenient, positive.sum(-1)),
            *(lenient, every[..., 1] + every[..., 2]),
        )
        return quotients(np.stack(pairs, axis=-1))

    accuracy, *of_positives = bootstrap(rows, statistic, resamples=resamples)
    assert accuracy is not None  # there are turns
    shares = (rows.sum(0) / len(cell_T)).reshape(shape)
    return Confusion(decoder, len(cell_T), columns, tuple(map(tuple, shares.tolist())), accuracy, *of_positives)


def calibration(
    scores: Sequence[float] | Floats,
    actual: Labels,
    games: Games | None = None,
    *,
    bins: int = 10,
    resamples: int = RESAMPLES,
) -> Calibration:
    """Compute the calibration of a decoder's scores, in bins of equal width.

    A score is a log-odds. For the binary decoder it is positive against negative, and gives the probability exactly;
    for the ternary one it is positive against the likelier of the other two, and the probability is among those two.

    Args:
        actual: -1, 0, +1 of each turn; only +1 is positive.
        games: the interaction of each turn; None resamples single turns.

    Raises:
        ValueError: no turns, or not as many of each; a score that is no number; no bins.
    """
    if bins < 1:
        raise ValueError(f"{bins} bins; there must be one or more")
    odds = np.asarray(scores, float)
    if np.isnan(odds).any():
        raise ValueError(f"score {int(np.argmax(np.isnan(odds)))} is not a number; decode the turn again")
    _require(len(odds), actual)
    probability = np.exp(-np.logaddexp(0, -odds))
    positive = (_places(actual, LABELS, "actual") == 2).astype(float)
    bin_T = np.minimum((probability * bins).astype(int), bins - 1)
    # Of each bin: turns, probabilities, positives; then squared errors and turns.
    of_bins = (None, probability, positive)
    of_all = ((probability - positive) ** 2, np.ones_like(odds))
    unit_T, units = _units(games, len(odds))
    rows = np.concatenate(
        [
            *(_counted(unit_T, units, bin_T, bins, weight_T) for weight_T in of_bins),
            *(np.bincount(unit_T, weight_T, units)[:, None] for weight_T in of_all),
        ],
        axis=1,
    )

    def statistic(sums: Floats) -> Floats:
        turns, probabilities, positives = (sums[..., part * bins : (part + 1) * bins] for part in range(3))
        with np.errstate(invalid="ignore"):
            shares = positives / turns
        ece = np.abs(probabilities - positives).sum(-1) / sums[..., -1]
        return np.concatenate([shares, np.stack([ece, sums[..., -2] / sums[..., -1]], axis=-1)], axis=-1)

    *shares, ece, brier = bootstrap(rows, statistic, resamples=resamples)
    assert ece is not None and brier is not None  # there are turns
    sums = np.concatenate([np.bincount(bin_T, weight_T, bins) for weight_T in of_bins])
    with_turns = tuple(
        Bin(each / bins, (each + 1) / bins, int(sums[each]), float(sums[bins + each] / sums[each]), share)
        for each, share in enumerate(shares)
        if share is not None
    )
    return Calibration(len(odds), with_turns, ece, brier)


def against_thumbs(labels: Sequence[int], thumbs: Sequence[int], games: Sequence[str]) -> ThumbFigures:
    """Compare decoded labels with users' thumbs on the same turns, the intervals resampling games.

    Raises:
        ValueError: no turns, or not as many of each.
    """
    _require(len(labels), thumbs)
    decoded_T, thumb_T = np.asarray(labels), np.asarray(thumbs)
    of_both_T = (decoded_T < 0) & (thumb_T < 0)
    columns = [decoded_T == thumb_T, np.ones_like(of_both_T), of_both_T, decoded_T < 0, of_both_T, thumb_T < 0]
    figures = bootstrap(by_game(games, np.stack(columns, axis=1).astype(float)), quotients)
    return ThumbFigures(len(labels), int((thumb_T < 0).sum()), *figures)


def by_label(
    actual: Labels, predicted: Labels, games: Games, weights: Sequence[float] | None = None
) -> dict[int, LabelFigures]:
    """Compute precision and recall of negatives and of positives, by label, the intervals resampling games.

    Args:
        games: what is resampled, of each turn: its game, or its user.
        weights: how many turns each stands for, such as the inverse of the chance that it was drawn; by default 1.

    Raises:
        ValueError: no turns, or not as many of each.
    """
    _require(len(actual), predicted)
    actual_T, decoded_T = np.asarray(actual), np.asarray(predicted)
    weight_T = np.ones(len(actual)) if weights is None else np.asarray(weights, float)
    figures = {}
    for label in (-1, 1):
        is_T, said_T = actual_T == label, decoded_T == label
        columns = np.stack([is_T & said_T, said_T, is_T & said_T, is_T], axis=1) * weight_T[:, None]
        table = by_game(games, columns)
        figures[label] = LabelFigures(int(said_T.sum()), int(is_T.sum()), *bootstrap(table, quotients))
    return figures


def auc(lower: ArrayLike, higher: ArrayLike) -> float:
    """Return the probability that a score of the first is below one of the second, ties counted half; nan without."""
    lower_N, higher_N = (np.asarray(scores, float) for scores in (lower, higher))
    if not len(lower_N) or not len(higher_N):
        return float("nan")
    ordered_N, pairs = np.sort(higher_N), 2 * len(lower_N) * len(higher_N)  # halves, so that a tie counts one
    below_N, up_to_N = (np.searchsorted(ordered_N, lower_N, side) for side in ("left", "right"))
    return (pairs - int((below_N + up_to_N).sum())) / pairs


def _places(labels: Labels, allowed: Sequence[int], whose: str) -> NDArray[np.int64]:
    """Return the place of each label among the allowed ones, which are sorted."""
    unknown = sorted(set(np.unique(labels).tolist()) - set(allowed))
    if unknown:
        raise ValueError(f"{whose} label {unknown[0]} is none of {', '.join(map(str, allowed))}")
    return np.searchsorted(allowed, np.asarray(labels, dtype=np.int64))


def _units(games: Games | None, turns: int) -> tuple[NDArray[np.int64], int]:
    """Return what is resampled of each turn, by number, and how many of them there are."""
    if games is None:
        return np.arange(turns), turns
    if len(games) != turns:
        raise ValueError(f"{turns} turns with the games of {len(games)}; each turn has one")
    return places(games)


def _counted(
    unit_T: NDArray[np.int64], units: int, cell_T: NDArray[np.int64], cells: int, weight_T: Floats | None = None
) -> Floats:
    """Add up the turns of each unit by cell [N, cells], or the weights that they have."""
    sums = np.bincount(unit_T * cells + cell_T, weight_T, units * cells)
    return sums.astype(float).reshape(units, cells)


def _require(turns: int, others: Labels) -> None:
    if len(others) != turns:
        raise ValueError(f"{turns} turns on one side and {len(others)} on the other; give both for each turn")
