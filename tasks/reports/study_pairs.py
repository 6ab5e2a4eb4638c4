"""Pair a study's games: two policies on the same contexts with the same speakers.

In the last round each variant is compared with CONTROL, and CONTROL with round 0, which the same policy played: this
shows how much of a rise is due to the policy, and how much to users and chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from respect_core.measuring.comparison import paired
from respect_core.measuring.evidence import ORDER, Comparison, Evidence
from respect_core.measuring.metrics import figures
from respect_core.variants import CONTROL, SEED
from tasks.reports.study_record import StudyRound, finished_rounds

ROUND_0 = "round 0"


def comparisons(studies: Sequence[Sequence[StudyRound]]) -> Iterator[Comparison]:
    """Compare policies in the order of the paper's tables; pairs of several studies count together."""
    for number in sorted({each.round for finished in studies for each in finished}):
        for policy in ORDER:
            before, other = (0, SEED) if policy == CONTROL else (number, CONTROL)
            pairs = [
                (game, theirs[context])
                for finished in studies
                for theirs in [_games(finished, before, other)]
                for context, game in _games(finished, number, policy).items()
                if context in theirs
            ]
            if pairs:
                first, second = (np.array(games) for games in zip(*pairs, strict=True))
                yield Comparison(number, policy, ROUND_0 if policy == CONTROL else other, paired(first, second))


def of_study(evidence: Evidence, root: Path, up_to: int | None = None) -> Evidence:
    """Add all that its study measured to a run's evidence, which stays as it is if the run is not a study.

    The tables have only logged games. A study also measures the seed policy on games that are not logged.
    """
    finished = [each for each in finished_rounds(root / "study") if up_to is None or each.round <= up_to]
    measured = {
        (policy, each.round): figures([np.array(deployed.games)])
        for each in finished
        for policy, deployed in each.policies.items()
    }
    cells = {
        policy: {
            number: replace(cell, figures=measured.get((policy, number)) or measured.get((SEED, number), cell.figures))
            for number, cell in by_round.items()
        }
        for policy, by_round in evidence.cells.items()
    }
    more = [each for each in comparisons([finished]) if each.other == ROUND_0]
    return replace(evidence, cells=cells, comparisons=(*evidence.comparisons, *more))


def _games(finished: Iterable[StudyRound], number: int, policy: str) -> dict[str, list[int]]:
    """Return a policy's games of a round by context; empty if it did not play, or if its record has no contexts."""
    played = [each.policies[policy] for each in finished if each.round == number and policy in each.policies]
    return {context: game for each in played for context, game in zip(each.contexts, each.games, strict=False)}
