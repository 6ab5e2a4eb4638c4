from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from respect_core.bootstrap import Estimate
from respect_core.similarity import ImageSimilarity


@dataclass(frozen=True)
class AnnotatedTurn:
    interaction_id: str
    turn: int
    context: tuple[str, ...]
    state: str
    action: str
    intended: str | None = None
    satisfaction: str | None = None
    annotator: str = ""
    correct: bool | None = None


@dataclass(frozen=True)
class TurnFigures:
    turns: int
    exact_match: Estimate | None
    similarity: Estimate | None
    similarity_negative: Estimate | None
    positive_feedback: Estimate | None


@dataclass(frozen=True)
class Agreement:
    turns: int
    correctness: Estimate | None
    action: Estimate | None
    satisfaction: Estimate | None


def turn_figures(rows: Sequence[AnnotatedTurn], f: ImageSimilarity | None = None) -> TurnFigures:
    raise NotImplementedError


def agreement(rows: Sequence[AnnotatedTurn]) -> Agreement:
    raise NotImplementedError
