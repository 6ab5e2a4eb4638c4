"""Turn-level metrics against annotators' actions, and how far annotators agree (appendices A.2 and B.4, table 5).

FOR MEASURING ONLY: what annotators say is read by nothing on the learning path.

Deviations from the paper, numbered as they are cited elsewhere:
1. Intervals draw games, not turns (`respect_core.stats`).
2. A share is of the turns that it can be told of: exact match and similarity of those with an intended action, positive
   feedback of those whose satisfaction was asked for. A game's last turn has no follow-up, and so no satisfaction.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from respect_core.measuring.judge import ImageSimilarity, judge
from respect_core.stats import LEVEL, RESAMPLES, Estimate, bootstrap, by_game, quotients

YES, PARTIAL, INCORRECT, NO = "yes", "partial", "incorrect", "no"
"""Satisfaction, a to d of appendix A.2: yes; yes, though clicks were missing, or were wrong; no."""

LABELS = {YES: 1, PARTIAL: 0, INCORRECT: 0, NO: -1}
"""Satisfaction as feedback: what figure 6 compares decoders with."""

ANNOTATORS = 3  # that a turn must have to tell agreement (appendix A.2)


@dataclass(frozen=True)
class AnnotatedTurn:
    """One annotator's answers about one turn.

    `action` is the policy's (a-hat) and `intended` the annotator's (a*); None where the annotator gave none, and then
    `correct` says whether they were equal, if anything does. `satisfaction`: yes | partial | incorrect | no; None
    where there is no follow-up. `context`: image ids in the listener's order; `state`: letters selected before.
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
        """Whether the policy did exactly what was intended, however either is spelt."""
        canonical = judge(self.scenario).canonical
        return self.correct if self.intended is None else canonical(self.action) == canonical(self.intended)


@dataclass(frozen=True)
class TurnFigures:
    """Table 5 for one policy in one round. None where no turn tells."""

    turns: int
    exact_match: Estimate | None  # a-hat = a* / turns
    similarity: Estimate | None  # equation 3, mean over turns; None without a similarity of images
    similarity_negative: Estimate | None  # the same over turns with negative feedback ("Sim -FB")
    positive_feedback: Estimate | None  # satisfaction "yes" / turns


@dataclass(frozen=True)
class Agreement:
    """Shares of turns on which all annotators agree. None where no turn tells."""

    turns: int  # annotated by three or more
    correctness: Estimate | None  # all say right, or all say wrong (footnote 8)
    action: Estimate | None  # exactly the same intended action (footnote 9)
    satisfaction: Estimate | None  # the same of the four options


def ground_truth(rows: Sequence[AnnotatedTurn]) -> list[AnnotatedTurn]:
    """The first annotation of each turn by annotator, in order of turns."""
    first: dict[tuple[str, int], AnnotatedTurn] = {}
    for row in sorted(rows, key=lambda row: (row.interaction_id, row.turn, row.annotator)):
        first.setdefault((row.interaction_id, row.turn), row)
    return list(first.values())


def turn_figures(
    rows: Sequence[AnnotatedTurn],
    f: ImageSimilarity | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> TurnFigures:
    """Exact match, similarity and positive feedback over the turns, from the first annotation of each.

    Feedback is positive where the satisfaction is "yes" without reservation: so figure 6 reads it, whose actual
    positives are table 5's "Pos Feedback" in rounds 0 to 2.

    Args:
        f: similarity of images for equation 3.

    Raises:
        ValueError: no turns, or a satisfaction that is none of the four.
        KeyError: an image that f does not know.
    """
    turns = ground_truth(rows)
    columns = np.array([_columns(row, f) for row in turns]).reshape(len(turns), 8)
    games = by_game([row.interaction_id for row in turns], columns)
    figures = bootstrap(games, quotients, resamples=resamples, seed=seed, level=level)
    exact, alike, alike_negative, positive = figures
    return TurnFigures(len(turns), exact, alike, alike_negative, positive)


def agreement(
    rows: Sequence[AnnotatedTurn], *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> Agreement:
    """Agreement on the turns that three annotators or more answered for (appendix A.2).

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
        [value for question in questions for value in _agreed([question(row) for row in answers])]
        for answers in shared.values()
    ]
    games = by_game([game for game, _ in shared], columns)
    correctness, action, satisfaction = bootstrap(games, quotients, resamples=resamples, seed=seed, level=level)
    return Agreement(len(shared), correctness, action, satisfaction)


def _columns(row: AnnotatedTurn, f: ImageSimilarity | None) -> list[float]:
    """Numerator and denominator of exact match, similarity, similarity under negative feedback, positive feedback."""
    if row.satisfaction is not None and row.satisfaction not in LABELS:
        raise ValueError(
            f"interaction {row.interaction_id}, turn {row.turn}: satisfaction {row.satisfaction!r} is none of "
            f"{', '.join(LABELS)}"
        )
    right, asked, negative = row.right, row.satisfaction is not None, row.satisfaction == NO
    alike = None
    if f is not None and row.intended is not None:
        alike = judge(row.scenario).similarity(row.action, row.intended, row.context, f)
    compared, similarity = alike is not None, alike or 0.0
    return [
        *(float(right or False), right is not None),
        *(similarity, compared),
        *(similarity * negative, compared and negative),
        *(row.satisfaction == YES, asked),
    ]


def _agreed(answers: Sequence[Hashable]) -> tuple[bool, bool]:
    """Whether all agree, and whether all answered."""
    answered = None not in answers
    return answered and len(set(answers)) == 1, answered
