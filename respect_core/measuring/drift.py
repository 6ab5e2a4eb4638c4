"""Measure how language and decoded feedback change between rounds. The paper shows only their levels (figure 7).

Users adapt to the system (section 6, User Adaptation), and a feedback decoder meets other words than it was tested on.
Each round is compared with the next.

Shapes: N games, V words, P permutations.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from respect_core.measuring.language import tokens
from respect_core.stats import RESAMPLES, Estimate, Floats, bootstrap, difference, quotients

PERMUTATIONS = 200
LABELS = (1, 0, -1)
LabelCounts = NDArray[np.int32]
"""How many of a game's turns have each of LABELS [N, 3]."""
_CELLS, _DEALS = 1_000_000, 25  # games times words in memory at a time; permutations of all games


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


class Corpus:
    """The words of games in order, as numbers: 4 bytes a word, 8 a game."""

    def __init__(self, games: Iterable[Sequence[str]] = ()) -> None:
        self._number: dict[str, int] = {}
        self._tokens, self._per_game, self._utterances = array("I"), array("I"), array("I")
        for utterances in games:
            self.add(utterances)

    def __len__(self) -> int:
        return len(self._per_game)

    @property
    def words(self) -> Collection[str]:
        """The different words, in the order of their numbers."""
        return self._number.keys()

    def add(self, utterances: Sequence[str]) -> None:
        """Add a game."""
        before = len(self._tokens)
        for utterance in utterances:
            self._tokens.extend(self._number.setdefault(word, len(self._number)) for word in tokens(utterance))
        self._per_game.append(len(self._tokens) - before)
        self._utterances.append(len(utterances))

    def lengths(self) -> Floats:
        """Return tokens and utterances of each game [N, 2]."""
        columns = [np.frombuffer(each, np.uint32) for each in (self._per_game, self._utterances)]
        return np.stack(columns, axis=1).astype(float)

    def tokens(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """Return games from `start` on, counted from 0, and the number of the word, of each of their tokens."""
        per_game_N = np.frombuffer(self._per_game, np.uint32)
        before = int(per_game_N[:start].sum())
        chosen_N = per_game_N[start:stop]
        found_T = np.frombuffer(self._tokens, np.uint32)[before : before + int(chosen_N.sum())]
        return np.repeat(np.arange(len(chosen_N)), chosen_N), found_T


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
    rounds: Mapping[int, Corpus], *, resamples: int = RESAMPLES, permutations: int = PERMUTATIONS
) -> list[LanguageDrift]:
    """Measure the drift from each round to the next.

    Raises:
        ValueError: a round without tokens.
    """
    drifts = []
    for earlier, later in pairwise(sorted(rounds)):
        both = rounds[earlier], rounds[later]
        columns, words = _columns(both)
        first, second = (
            _sums(np.ones((1, len(each))), each, column, words)[0] for each, column in zip(both, columns, strict=True)
        )
        for number, sums in ((earlier, first), (later, second)):
            if not sums.sum():
                raise ValueError(f"round {number} has no tokens to compare")
        divergence = float(_divergence(first, second))
        in_first_PV = _dealt(both, columns, words, permutations)
        chance = _divergence(in_first_PV, first + second - in_first_PV)
        change = difference(both[0].lengths(), both[1].lengths(), quotients, resamples=resamples)[0]
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


def label_counts(games: Iterable[Sequence[int]]) -> LabelCounts:
    """Count the labels of each game."""
    return np.array([[list(game).count(label) for label in LABELS] for game in games], np.int32).reshape(-1, 3)


def feedback_shares(games: LabelCounts, *, resamples: int = RESAMPLES) -> FeedbackShares:
    """Compute the shares of the decoded labels +1, 0 and -1.

    Raises:
        ValueError: no labels.
    """
    figures = bootstrap(_labels(games), quotients, resamples=resamples)
    return FeedbackShares(int(games.sum()), *_three(figures))


def feedback_drift(rounds: Mapping[int, LabelCounts]) -> list[FeedbackDrift]:
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


def _columns(corpora: Sequence[Corpus]) -> tuple[list[NDArray[np.int64]], int]:
    """Return the place of each word of each corpus among the sorted words of all, and how many there are."""
    words = sorted({word for each in corpora for word in each.words})
    place = {word: number for number, word in enumerate(words)}
    return [np.array([place[word] for word in each.words], np.int64) for each in corpora], len(words)


def _sums(shares_PN: Floats, corpus: Corpus, column: NDArray[np.int64], words: int) -> Floats:
    """Multiply each game's words by its share, and add them up [P, V]. They are whole numbers: the order is no matter.

    Memory holds the words of some games: as few as there are in a block of _CELLS cells.
    """
    sums, step = np.zeros((len(shares_PN), words)), max(1, _CELLS // max(1, words))
    for start in range(0, len(corpus), step):
        game_T, word_T = corpus.tokens(start, start + step)
        rows = min(step, len(corpus) - start)
        table = np.bincount(game_T * words + column[word_T], minlength=rows * words).reshape(rows, words)
        sums += shares_PN[:, start : start + step].astype(float) @ table.astype(float)
    return sums


def _dealt(
    corpora: tuple[Corpus, Corpus], columns: Sequence[NDArray[np.int64]], words: int, permutations: int
) -> Floats:
    """Count the words of the games that fall to the earlier round, which are dealt at random [P, V]."""
    first = len(corpora[0])
    is_earlier, random = np.arange(first + len(corpora[1])) < first, np.random.default_rng(0)
    sums = np.zeros((permutations, words))
    for start in range(0, permutations, _DEALS):
        deals_PN = np.stack([random.permuted(is_earlier) for _ in range(min(_DEALS, permutations - start))])
        for corpus, column, part in zip(corpora, columns, (deals_PN[:, :first], deals_PN[:, first:]), strict=True):
            sums[start : start + _DEALS] += _sums(part, corpus, column, words)
    return sums


def _divergence(first: Floats, second: Floats) -> Floats:
    """Compute the Jensen-Shannon divergence in bits of two distributions, from counts [..., V]."""
    p, q = (counts / counts.sum(-1, keepdims=True) for counts in (first, second))
    middle = (p + q) / 2
    return np.asarray((_relative(p, middle) + _relative(q, middle)) / 2)


def _relative(p: Floats, q: Floats) -> Floats:
    """Compute the Kullback-Leibler divergence in bits; q is nowhere 0 unless p is."""
    return np.asarray(np.sum(p * np.log2(np.where(p > 0, p, 1) / np.where(p > 0, q, 1)), axis=-1))


def _labels(games: LabelCounts) -> Floats:
    """Return numerator and denominator of each label's share, by game [N, 6]."""
    turns_N3 = np.repeat(games.sum(1, keepdims=True), len(LABELS), axis=1)
    return np.stack([games, turns_N3], axis=2).reshape(-1, 6).astype(float)


def _three(figures: Sequence[Estimate | None]) -> tuple[Estimate, Estimate, Estimate]:
    positive, neutral, negative = figures
    if positive is None or neutral is None or negative is None:
        raise ValueError("no decoded labels to measure")
    return positive, neutral, negative
