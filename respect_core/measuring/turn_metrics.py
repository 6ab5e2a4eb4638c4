"""Compute turn-level metrics against annotators' actions, and annotators' agreement (appendices A.2 and B.4, table 5).

FOR MEASURING ONLY: nothing on the learning path reads annotators' answers.

Deviations from the paper, numbered as they are cited elsewhere:
1. Intervals resample games, not turns (`respect_core.stats`).
2. Each share is over the turns for which it is defined: exact match and similarity over those with an intended action,
   positive feedback over those with a satisfaction. A game's last turn has no follow-up, and so no satisfaction.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from respect_core.measuring.judge import ImageSimilarity, judge
from respect_core.stats import RESAMPLES, Estimate, bootstrap, by_game, quotients

YES, PARTIAL, INCORRECT, NO = "yes", "partial", "incorrect", "no"
"""Satisfaction, a to d of appendix A.2: yes; yes, though clicks were missing; yes, though some were wrong; no."""
NEUTRAL = "neutral"
"""Satisfaction that a follow-up does not tell: of free text alone, where there are no clicks (`annotation_tasks`)."""

LABELS = {YES: 1, PARTIAL: 0, INCORRECT: 0, NEUTRAL: 0, NO: -1}
"""Satisfaction as feedback labels, with which figure 6 compares decoders."""

ANNOTATORS = 3  # a turn needs this many to count for agreement (appendix A.2)


@dataclass(frozen=True)
class AnnotatedTurn:
    """One annotator's answers about one turn.

    `action` is the policy's (a-hat) and `intended` the annotator's (a*); None if the data has none, and then `correct`
    says whether they were equal, if that is known. `satisfaction`: yes | partial | incorrect | neutral | no; None
    without a follow-up. `context`: image ids in the listener's order; `state`: letters selected before.
    """

    interaction_id: str
    turn: int
    scenario: str
    context: tuple[str, ...]
    state: str
    action: str
    intended: str | None = None
    satisfaction: str | None = None
    annotator: str = ""
    correct: bool | None = None

    @property
    def right(self) -> bool | None:
        """Whether the policy's action equals the intended one, however they are spelt; None if unknown."""
        canonical = judge(self.scenario).canonical
        return self.correct if self.intended is None else canonical(self.action) == canonical(self.intended)


@dataclass(frozen=True)
class TurnFigures:
    """Figures of table 5 for one policy in one round. None if no turn defines them."""

    turns: int
    exact_match: Estimate | None  # a-hat = a* / turns
    similarity: Estimate | None  # equation 3, mean over turns; None without a similarity of images
    similarity_negative: Estimate | None  # the same over turns with negative feedback ("Sim -FB")
    positive_feedback: Estimate | None  # satisfaction "yes" / turns


@dataclass(frozen=True)
class Agreement:
    """Shares of turns on which all annotators agree. None if no turn defines them."""

    turns: int  # annotated by three or more
    correctness: Estimate | None  # all say right, or all say wrong (footnote 8)
    action: Estimate | None  # exactly the same intended action (footnote 9)
    satisfaction: Estimate | None  # the same of the four options


def first_annotations(rows: Sequence[AnnotatedTurn]) -> list[AnnotatedTurn]:
    """Return the annotation of each turn by its first annotator, in order of name; sorted by turn."""
    first: dict[tuple[str, int], AnnotatedTurn] = {}
    for row in sorted(rows, key=lambda row: (row.interaction_id, row.turn, row.annotator)):
        first.setdefault((row.interaction_id, row.turn), row)
    return list(first.values())


def turn_figures(
    rows: Sequence[AnnotatedTurn], f: ImageSimilarity | None = None, *, resamples: int = RESAMPLES
) -> TurnFigures:
    """Compute exact match, similarity and positive feedback over the turns, from the first annotation of each.

    Feedback is positive if the satisfaction is "yes" without reservation, as in figure 6, whose actual positives are
    table 5's "Pos Feedback" in rounds 0 to 2.

    Args:
        f: similarity of images for equation 3.

    Raises:
        ValueError: no turns, or a satisfaction that is none of the four.
        KeyError: an image that f does not know.
    """
    turns = first_annotations(rows)
    columns = np.array([_columns(row, f) for row in turns]).reshape(len(turns), 8)
    games = by_game([row.interaction_id for row in turns], columns)
    figures = bootstrap(games, quotients, resamples=resamples)
    return TurnFigures(len(turns), *figures)


def agreement(rows: Sequence[AnnotatedTurn], *, resamples: int = RESAMPLES) -> Agreement:
    """Compute the agreement on turns that three annotators or more answered (appendix A.2).

    A turn counts for a share if all its annotators answered that question.

    Raises:
        ValueError: an annotator answered twice for one turn.
    """
    by_turn: dict[tuple[str, int], list[AnnotatedTurn]] = {}
    for row in rows:
        by_turn.setdefault((row.interaction_id, row.turn), []).append(row)
    for (game, turn), answers in by_turn.items():
        if len({row.annotator for row in answers}) < len(answers):
            raise ValueError(f"interaction {game}, turn {turn}: an annotator answered twice; keep one of the rows")
    shared = {key: answers for key, answers in by_turn.items() if len(answers) >= ANNOTATORS}
    if not shared:
        return Agreement(0, None, None, None)
    questions: tuple[Callable[[AnnotatedTurn], Hashable], ...] = (
        lambda row: row.right,
        lambda row: None if row.intended is None else judge(row.scenario).canonical(row.intended),
        lambda row: row.satisfaction,
    )
    columns = [
        [value for question in questions for value in _agreement([question(row) for row in answers])]
        for answers in shared.values()
    ]
    games = by_game([game for game, _ in shared], columns)
    correctness, action, satisfaction = bootstrap(games, quotients, resamples=resamples)
    return Agreement(len(shared), correctness, action, satisfaction)


def _columns(row: AnnotatedTurn, f: ImageSimilarity | None) -> list[float]:
    """Return numerators and denominators: exact match, similarity, similarity if negative, positive feedback."""
    if row.satisfaction is not None and row.satisfaction not in LABELS:
        raise ValueError(
            f"interaction {row.interaction_id}, turn {row.turn}: satisfaction {row.satisfaction!r} is none of "
            f"{', '.join(LABELS)}"
        )
    right, has_satisfaction, negative = row.right, row.satisfaction is not None, row.satisfaction == NO
    similarity = None
    if f is not None and row.intended is not None:
        similarity = judge(row.scenario).similarity(row.action, row.intended, row.context, f)
    has_similarity, value = similarity is not None, similarity or 0.0
    return [
        *(float(right or False), right is not None),
        *(value, has_similarity),
        *(value * negative, has_similarity and negative),
        *(row.satisfaction == YES, has_satisfaction),
    ]


def _agreement(answers: Sequence[Hashable]) -> tuple[bool, bool]:
    """Return whether all annotators agree, and whether all answered."""
    all_answered = None not in answers
    return all_answered and len(set(answers)) == 1, all_answered
