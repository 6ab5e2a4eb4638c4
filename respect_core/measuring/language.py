"""Measure users' language: corpus-level metrics of a system in a round (appendix B.4, figure 7, tables 6 to 9).

Deviations from the paper, numbered as they are cited elsewhere:
1. Sentences, at whose ends NLTK splits off the period, are detected by NLTK's Punkt without its trained parameters,
   which are a download: it knows no abbreviations, so that "dr." ends a sentence.
2. The paper gives no intervals for these metrics. Utterance length has one, which resamples games; vocabulary and
   counts have none, because they depend on the size and repetitions of a corpus, which a resample changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

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
    corpus = [list(utterances) for utterances in games]
    words = [[tokens(utterance) for utterance in utterances] for utterances in corpus]
    lengths = [sum(map(len, utterances)) for utterances in words]
    all_utterances = [utterance for utterances in corpus for utterance in utterances]
    if not all_utterances:
        raise ValueError("no utterances to measure")
    return Language(
        utterances=len(all_utterances),
        vocabulary=len({token for utterances in words for utterance in utterances for token in utterance}),
        utterance_length=ratio(lengths, list(map(len, corpus)), resamples=resamples),
        resets=occurrences(all_utterances, RESET),
        try_agains=occurrences(all_utterances, TRY_AGAIN),
    )


@lru_cache(maxsize=65536)  # users repeat themselves: 'yes', 'try again'
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
