"""Measure users' language: corpus-level metrics of a system in a round (appendix B.4, figure 7, tables 6 to 9).

Deviations from the paper, numbered as they are cited elsewhere:
1. Sentences, at whose ends NLTK splits off the period, are detected by NLTK's Punkt without its trained parameters,
   which are a download: it knows no abbreviations, so that "dr." ends a sentence.
2. The paper gives no intervals for these metrics. Utterance length has one, which resamples games; vocabulary and
   counts have none, because they depend on the size and repetitions of a corpus, which a resample changes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from respect_core.errors import extra
from respect_core.stats import RESAMPLES, Estimate, ratio

RESET = (
    "reset",
    "restart",
    "from scratch",
    "all over",
    "start over",
    "deselect everything",
    "deselect all",
    "remove everything",
    "remove all",
    "clear everything",
    "clear all",
    "unselect everything",
    "unselect all",
    "drop everything",
    "drop all",
)
TRY_AGAIN = ("try again", "try one more time", "the other one")


@dataclass(frozen=True)
class Language:
    """Figures of tables 6 to 9 for one policy in one round."""

    utterances: int
    vocabulary: int  # distinct tokens
    utterance_length: Estimate  # tokens per utterance
    resets: int  # occurrences of RESET
    try_agains: int  # occurrences of TRY_AGAIN


def language(games: Iterable[Sequence[str]], *, resamples: int = RESAMPLES) -> Language:
    """Measure vocabulary, utterance length, resets and "try again"s, from the utterances of each game.

    Raises:
        ValueError: no utterances.
    """
    tally = LanguageTally()
    for utterances in games:
        tally.add(utterances)
    return tally.language(resamples=resamples)


class LanguageTally:
    """Running counts over games: 8 bytes a game, and the vocabulary."""

    def __init__(self) -> None:
        self._vocabulary = set[str]()
        self._lengths, self._utterances = array("I"), array("I")  # of each game: its tokens, and its utterances
        self._resets = self._try_agains = 0

    def add(self, utterances: Sequence[str]) -> None:
        """Count the utterances of a game."""
        words = [tokens(utterance) for utterance in utterances]
        self._vocabulary.update(*words)
        self._lengths.append(sum(map(len, words)))
        self._utterances.append(len(utterances))
        self._resets += occurrences(utterances, RESET)
        self._try_agains += occurrences(utterances, TRY_AGAIN)

    def language(self, *, resamples: int = RESAMPLES) -> Language:
        """Return the figures of the games so far. Raises ValueError without utterances."""
        utterances_N = np.frombuffer(self._utterances, np.uint32)
        if not utterances_N.any():
            raise ValueError("no utterances to measure")
        return Language(
            utterances=int(utterances_N.sum()),
            vocabulary=len(self._vocabulary),
            utterance_length=ratio(np.frombuffer(self._lengths, np.uint32), utterances_N, resamples=resamples),
            resets=self._resets,
            try_agains=self._try_agains,
        )


@lru_cache(maxsize=16384)  # users repeat themselves: 'yes', 'try again'
def tokens(utterance: str) -> tuple[str, ...]:
    """Return the alphanumeric word tokens of the lower-cased utterance, as NLTK splits words.

    `don't` gives do, as n't is not alphanumeric; `left-facing` is one token, and not alphanumeric either.
    """
    sentences, words = _nltk()
    return tuple(token for sentence in sentences(utterance.lower()) for token in words(sentence) if token.isalnum())


def occurrences(utterances: Iterable[str], phrases: Sequence[str]) -> int:
    """Count occurrences of the phrases in the lower-cased utterances, each phrase separately.

    They count as substrings: "deselect all over again" counts for `deselect all` and for `all over`, and "preset" for
    `reset`. A phrase does not extend over two utterances.
    """
    return sum(utterance.lower().count(phrase) for utterance in utterances for phrase in phrases)


@cache
def _nltk() -> tuple[Callable[[str], list[str]], Callable[[str], list[str]]]:
    """Return NLTK's sentence and word tokenizers, without data; importing it takes a second."""
    with extra("report"):
        from nltk.tokenize.destructive import NLTKWordTokenizer
        from nltk.tokenize.punkt import PunktSentenceTokenizer

    return PunktSentenceTokenizer().tokenize, NLTKWordTokenizer().tokenize
