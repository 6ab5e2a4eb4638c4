from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from respect_core.bootstrap import Estimate


@dataclass(frozen=True)
class LanguageDrift:
    earlier: int
    later: int
    divergence: float  # Jensen-Shannon, bits, of unigrams
    divergence_by_chance: float  # median over games dealt anew to the two rounds
    p: float
    length: Estimate  # change of utterance length, later minus earlier
    unseen: float  # share of later tokens that the earlier round does not have


@dataclass(frozen=True)
class FeedbackShares:
    turns: int
    positive: Estimate
    neutral: Estimate
    negative: Estimate


@dataclass(frozen=True)
class FeedbackDrift:
    earlier: int
    later: int
    positive: Estimate  # change of share
    neutral: Estimate
    negative: Estimate


def language_drift(rounds: Mapping[int, Sequence[Sequence[str]]]) -> list[LanguageDrift]:
    """Round -> utterances of each game; one entry for each two rounds that follow each other."""
    raise NotImplementedError


def feedback_shares(games: Sequence[Sequence[int]]) -> FeedbackShares:
    """Decoded labels of each game."""
    raise NotImplementedError


def feedback_drift(rounds: Mapping[int, Sequence[Sequence[int]]]) -> list[FeedbackDrift]:
    raise NotImplementedError
