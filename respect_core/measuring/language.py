"""What users write: corpus-level metrics of a system in a round (appendix B.4, figure 7, tables 6 to 9).

Deviations from the paper, numbered as they are cited elsewhere:
1. Sentences, at whose ends NLTK cuts a period off, are found by NLTK's Punkt without its trained parameters, which are
   a download: it knows no abbreviations, so that "dr." ends a sentence.
2. The paper gives no intervals for these metrics. Utterance length has one, which draws games; of vocabulary and counts
   a resample would tell of another corpus, and they have none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from respect_core.stats import LEVEL, RESAMPLES, Estimate, ratio

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
    """Tables 6 to 9 for one policy in one round."""

    utterances: int
    vocabulary: int  # distinct tokens
    utterance_length: Estimate  # tokens per utterance
    resets: int  # occurrences of RESET
    try_agains: int  # occurrences of TRY_AGAIN


def language(
    games: Iterable[Sequence[str]], *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> Language:
    """Vocabulary, utterance length, resets and tries again of the utterances of each game.

    Raises:
        ValueError: no utterances.
    """
    corpus = [list(utterances) for utterances in games]
    words = [[tokens(utterance) for utterance in utterances] for utterances in corpus]
    lengths = [sum(map(len, utterances)) for utterances in words]
    every = [utterance for utterances in corpus for utterance in utterances]
    if not every:
        raise ValueError("no utterances to measure")
    return Language(
        utterances=len(every),
        vocabulary=len({token for utterances in words for utterance in utterances for token in utterance}),
        utterance_length=ratio(lengths, list(map(len, corpus)), resamples=resamples, seed=seed, level=level),
        resets=occurrences(every, RESET),
        try_agains=occurrences(every, TRY_AGAIN),
    )


@lru_cache(maxsize=65536)  # users repeat themselves: 'yes', 'try again'
def tokens(utterance: str) -> tuple[str, ...]:
    """The alphanumeric word tokens of the lower-cased utterance, as NLTK cuts words.

    `don't` gives do, and n't is not alphanumeric; nor is `left-facing`, which is one token.
    """
    sentences, words = _nltk()
    return tuple(token for sentence in sentences(utterance.lower()) for token in words(sentence) if token.isalnum())


def occurrences(utterances: Iterable[str], phrases: Sequence[str]) -> int:
    """How often the phrases stand in the lower-cased utterances, each phrase counted by itself.

    As substrings, so "deselect all over again" counts for `deselect all` and for `all over`, and "preset" for `reset`.
    A phrase does not run on from one utterance into the next.
    """
    return sum(utterance.lower().count(phrase) for utterance in utterances for phrase in phrases)


@cache
def _nltk() -> tuple[Callable[[str], list[str]], Callable[[str], list[str]]]:
    """NLTK's sentence and word tokenizers, without data; importing it takes a second."""
    from nltk.tokenize.destructive import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    return PunktSentenceTokenizer().tokenize, NLTKWordTokenizer().tokenize
