from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from respect_core.bootstrap import Estimate


@dataclass(frozen=True)
class Language:
    utterances: int
    vocabulary: int
    utterance_length: Estimate
    resets: int
    try_agains: int


def language(games: Sequence[Sequence[str]]) -> Language:
    """`games`: the utterances of each game."""
    raise NotImplementedError
