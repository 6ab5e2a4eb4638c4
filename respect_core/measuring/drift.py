"""Measure how language and decoded feedback change between rounds. The paper shows only their levels (figure 7).

Users adapt to the system (section 6, User Adaptation), and a feedback decoder meets other words than it was tested on.
Each round is compared with the next.

Shapes: N games, V words, P permutations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from respect_core.measuring.language import tokens
from respect_core.stats import RESAMPLES, Estimate, Floats, bootstrap, difference, quotients

PERMUTATIONS = 200
LABELS = (1, 0, -1)


@dataclass(frozen=True)
class LanguageDrift:
    """Change in language from one round to the next.

    Two samples of one language diverge too. `by_chance` is the median divergence over PERMUTATIONS that reassign the
    games of both rounds at random, and `p` the share of these with at least the actual divergence.
    """

    earlier: int
    later: int
    divergence: float  # Jensen-Shannon divergence of the two unigram distributions, in bits: 0 to 1
    by_chance: float
    p: float
    length: Estimate  # change of tokens per utterance
    unseen: float  # share of the later round's tokens that do not occur in the earlier one


@dataclass(frozen=True)
class FeedbackShares:
    """Shares of decoded labels among the turns of a round."""

    turns: int
    positive: Estimate
    neutral: Estimate
    negative: Estimate


@dataclass(frozen=True)
class FeedbackDrift:
    """Changes of these shares from one round to the next."""

    earlier: int
    later: int
    positive: Estimate
    neutral: Estimate
    negative: Estimate


def language_drift(
    rounds: Mapping[int, Sequence[Sequence[str]]], *, resamples: int = RESAMPLES, permutations: int = PERMUTATIONS
) -> list[LanguageDrift]:
    """Measure the drift from each round to the next, from the utterances of each game by round.

    Memory grows with games times vocabulary.

    Raises:
        ValueError: a round without tokens.
    """
    drifts = []
    for earlier, later in pairwise(sorted(rounds)):
        games = [*rounds[earlier], *rounds[later]]
        table = _words(games)
        is_earlier = np.arange(len(games)) < len(rounds[earlier])
        first, second = table[is_earlier].sum(0), table[~is_earlier].sum(0)
        for number, words in ((earlier, first), (later, second)):
            if not words.sum():
                raise ValueError(f"round {number} has no tokens to compare")
        divergence = float(_divergence(first, second))
        permutations_PN = np.random.default_rng(0).permuted(np.tile(is_earlier, (permutations, 1)), axis=1)
        in_first_PN = permutations_PN.astype(float)
        chance = _divergence(in_first_PN @ table, (1 - in_first_PN) @ table)
        lengths = np.stack([table.sum(1), [len(game) for game in games]], axis=1)
        tables = lengths[is_earlier], lengths[~is_earlier]
        change = difference(*tables, quotients, resamples=resamples)[0]
        assert change is not None  # both rounds have utterances
        drifts.append(
            LanguageDrift(
                earlier,
                later,
                divergence=divergence,
                by_chance=float(np.median(chance)),
                p=float(1 + (chance >= divergence).sum()) / (1 + permutations),
                length=change,
                unseen=float(second[first == 0].sum() / second.sum()),
            )
        )
    return drifts


def feedback_shares(games: Sequence[Sequence[int]], *, resamples: int = RESAMPLES) -> FeedbackShares:
    """Compute the shares of the decoded labels +1, 0 and -1, from the labels of each game.

    Raises:
        ValueError: no labels.
    """
    figures = bootstrap(_labels(games), quotients, resamples=resamples)
    return FeedbackShares(sum(map(len, games)), *_three(figures))


def feedback_drift(rounds: Mapping[int, Sequence[Sequence[int]]]) -> list[FeedbackDrift]:
    """Compute the change of the shares from each round to the next, from the labels of each game by round.

    Raises:
        ValueError: a round without labels.
    """
    drifts = []
    for earlier, later in pairwise(sorted(rounds)):
        tables = _labels(rounds[earlier]), _labels(rounds[later])
        figures = difference(*tables, quotients)
        drifts.append(FeedbackDrift(earlier, later, *_three(figures)))
    return drifts


def _words(games: Sequence[Sequence[str]]) -> Floats:
    """Count each word in each game, over the words of all games [N, V]."""
    counters = [Counter(token for utterance in game for token in tokens(utterance)) for game in games]
    place = {word: index for index, word in enumerate(sorted({word for counter in counters for word in counter}))}
    table = np.zeros((len(games), len(place)))
    for row, counter in zip(table, counters, strict=True):
        for word, count in counter.items():
            row[place[word]] = count
    return table


def _divergence(first: Floats, second: Floats) -> Floats:
    """Compute the Jensen-Shannon divergence in bits of two distributions, from counts [..., V]."""
    p, q = (counts / counts.sum(-1, keepdims=True) for counts in (first, second))
    middle = (p + q) / 2
    return np.asarray((_relative(p, middle) + _relative(q, middle)) / 2)


def _relative(p: Floats, q: Floats) -> Floats:
    """Compute the Kullback-Leibler divergence in bits; q is nowhere 0 unless p is."""
    return np.asarray(np.sum(p * np.log2(np.where(p > 0, p, 1) / np.where(p > 0, q, 1)), axis=-1))


def _labels(games: Sequence[Sequence[int]]) -> Floats:
    """Return numerator and denominator of each label's share, by game [N, 6]."""
    return np.array(
        [[value for label in LABELS for value in (list(game).count(label), len(game))] for game in games], dtype=float
    ).reshape(-1, 6)


def _three(figures: Sequence[Estimate | None]) -> tuple[Estimate, Estimate, Estimate]:
    positive, neutral, negative = figures
    if positive is None or neutral is None or negative is None:
        raise ValueError("no decoded labels to measure")
    return positive, neutral, negative
