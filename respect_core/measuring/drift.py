"""How language and decoded feedback change from round to round. Not in the paper, which shows their levels (figure 7).

Users adapt to the system (section 6, User Adaptation), and a feedback decoder meets other words than it was checked on.
What is compared are two rounds that follow each other.

Shapes: N games, V words, P permutations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from respect_core.measuring.language import tokens
from respect_core.stats import LEVEL, RESAMPLES, Estimate, Floats, bootstrap, difference, quotients

PERMUTATIONS = 200
LABELS = (1, 0, -1)


@dataclass(frozen=True)
class LanguageDrift:
    """Language of a round against that of the round before.

    Two samples of one language diverge too. `by_chance` is what their divergence comes to when the games of both rounds
    are dealt out anew, the median of PERMUTATIONS, and `p` the share of these with as large a divergence.
    """

    earlier: int
    later: int
    divergence: float  # Jensen-Shannon divergence of the two unigram distributions, in bits: 0 to 1
    by_chance: float
    p: float
    length: Estimate  # change of tokens per utterance
    unseen: float  # share of the later round's tokens that the earlier one does not have


@dataclass(frozen=True)
class FeedbackShares:
    """Shares of decoded labels among the turns of a round."""

    turns: int
    positive: Estimate
    neutral: Estimate
    negative: Estimate


@dataclass(frozen=True)
class FeedbackDrift:
    """Changes of these shares against the round before."""

    earlier: int
    later: int
    positive: Estimate
    neutral: Estimate
    negative: Estimate


def language_drift(
    rounds: Mapping[int, Sequence[Sequence[str]]],
    *,
    resamples: int = RESAMPLES,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    level: float = LEVEL,
) -> list[LanguageDrift]:
    """Drift between each two rounds that follow each other, from the utterances of each game by round.

    Memory grows with games times vocabulary.

    Raises:
        ValueError: a round without tokens.
    """
    found = []
    for earlier, later in pairwise(sorted(rounds)):
        games = [*rounds[earlier], *rounds[later]]
        table = _words(games)
        is_earlier = np.arange(len(games)) < len(rounds[earlier])
        first, second = table[is_earlier].sum(0), table[~is_earlier].sum(0)
        for number, words in ((earlier, first), (later, second)):
            if not words.sum():
                raise ValueError(f"round {number} has no tokens to compare")
        divergence = float(_divergence(first, second))
        dealt = np.random.default_rng(seed).permuted(np.tile(is_earlier, (permutations, 1)), axis=1).astype(float)
        chance = _divergence(dealt @ table, (1 - dealt) @ table)
        lengths = np.stack([table.sum(1), [len(game) for game in games]], axis=1)
        tables = lengths[is_earlier], lengths[~is_earlier]
        change = difference(*tables, quotients, resamples=resamples, seed=seed, level=level)[0]
        assert change is not None  # both rounds have utterances
        found.append(
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
    return found


def feedback_shares(
    games: Sequence[Sequence[int]], *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> FeedbackShares:
    """Shares of the labels +1, 0 and -1 that were decoded, given by game.

    Raises:
        ValueError: no labels.
    """
    figures = bootstrap(_labels(games), quotients, resamples=resamples, seed=seed, level=level)
    return FeedbackShares(sum(map(len, games)), *_three(figures))


def feedback_drift(
    rounds: Mapping[int, Sequence[Sequence[int]]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> list[FeedbackDrift]:
    """Changes of the shares between each two rounds that follow each other, from the labels of each game by round.

    Raises:
        ValueError: a round without labels.
    """
    found = []
    for earlier, later in pairwise(sorted(rounds)):
        tables = _labels(rounds[earlier]), _labels(rounds[later])
        figures = difference(*tables, quotients, resamples=resamples, seed=seed, level=level)
        found.append(FeedbackDrift(earlier, later, *_three(figures)))
    return found


def _words(games: Sequence[Sequence[str]]) -> Floats:
    """How often each game has each word of all of them [N, V]."""
    counted = [Counter(token for utterance in game for token in tokens(utterance)) for game in games]
    place = {word: index for index, word in enumerate(sorted({word for game in counted for word in game}))}
    table = np.zeros((len(games), len(place)))
    for row, game in zip(table, counted, strict=True):
        for word, times in game.items():
            row[place[word]] = times
    return table


def _divergence(first: Floats, second: Floats) -> Floats:
    """Jensen-Shannon divergence in bits of two distributions given by counts [..., V]."""
    p, q = (counts / counts.sum(-1, keepdims=True) for counts in (first, second))
    middle = (p + q) / 2
    return np.asarray((_relative(p, middle) + _relative(q, middle)) / 2)


def _relative(p: Floats, q: Floats) -> Floats:
    """Kullback-Leibler divergence in bits; q is nowhere 0 where p is not."""
    return np.asarray(np.sum(p * np.log2(np.where(p > 0, p, 1) / np.where(p > 0, q, 1)), axis=-1))


def _labels(games: Sequence[Sequence[int]]) -> Floats:
    """Numerator and denominator of each label's share, by game [N, 6]."""
    return np.array(
        [[value for label in LABELS for value in (list(game).count(label), len(game))] for game in games], dtype=float
    ).reshape(-1, 6)


def _three(figures: Sequence[Estimate | None]) -> tuple[Estimate, Estimate, Estimate]:
    positive, neutral, negative = figures
    if positive is None or neutral is None or negative is None:
        raise ValueError("no decoded labels to measure")
    return positive, neutral, negative
