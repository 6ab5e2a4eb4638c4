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

from respect_core.bootstrap import LEVEL, RESAMPLES, Estimate, Floats, bootstrap, difference, quotients
from respect_core.language import tokens
from respect_core.store import Store
from respect_core.tables import read_table

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

    Memory grows with games times vocabulary. Raises ValueError for a round without tokens.
    """
    counted = {number: [_counted(game) for game in rounds[number]] for number in sorted(rounds)}
    found = []
    for earlier, later in pairwise(counted):
        words, other = counted[earlier], counted[later]
        known = sorted({word for game in (*words, *other) for word in game})
        place = {word: index for index, word in enumerate(known)}
        table = np.zeros((len(words) + len(other), len(known)))  # [N, V]
        for row, game in enumerate([*words, *other]):
            for word, times in game.items():
                table[row, place[word]] = times
        total, before = table.sum(0), table[: len(words)].sum(0)
        if not before.sum() or before.sum() == total.sum():
            number = later if before.sum() else earlier
            raise ValueError(f"round {number} has no tokens to compare")
        divergence = float(_divergence(before, total - before))
        rng = np.random.default_rng(seed)
        dealt = rng.permuted(np.tile(np.arange(len(table)) < len(words), (permutations, 1)), axis=1)
        first = dealt.astype(float) @ table  # [P, V]
        chance = _divergence(first, total - first)
        lengths = [
            [(sum(words.values()), len(game)) for words, game in zip(counted[number], rounds[number], strict=True)]
            for number in (earlier, later)
        ]
        change = difference(*lengths, quotients, resamples=resamples, seed=seed, level=level)[0]
        assert change is not None  # both rounds have utterances
        found.append(
            LanguageDrift(
                earlier,
                later,
                divergence=divergence,
                by_chance=float(np.median(chance)),
                p=float(1 + (chance >= divergence).sum()) / (1 + permutations),
                length=change,
                unseen=float((total - before)[before == 0].sum() / (total - before).sum()),
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


def read_labels(store: Store, round: int, variant: str, decoder: str) -> list[list[int]]:
    """Decoded labels of each game of a partition of the feedback table. Raises as reading tables does."""
    table = read_table(store, "feedback", [round], [variant], ["interaction_id", "decoder", "label"])
    games: dict[str, list[int]] = {}
    for row in table.to_pylist():
        if row["decoder"] == decoder:
            games.setdefault(row["interaction_id"], []).append(row["label"])
    return [games[game] for game in sorted(games)]


def _counted(game: Sequence[str]) -> Counter[str]:
    return Counter(token for utterance in game for token in tokens(utterance))


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
