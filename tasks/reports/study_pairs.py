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
from tasks.reports.study_record import Deployed, StudyRound, finished_rounds

ROUND_0 = "round 0"
Games = tuple[list[int], list[int]]
"""COLUMNS of two games of one context."""


def comparisons(studies: Sequence[Sequence[StudyRound]]) -> Iterator[Comparison]:
    """Compare policies in the order of the paper's tables; pairs of several studies count together."""
    for number in sorted({each.round for finished in studies for each in finished}):
        for policy in ORDER:
            before, other = (0, SEED) if policy == CONTROL else (number, CONTROL)
            pairs = [
                pair
                for finished in studies
                for pair in _pairs(_games(finished, number, policy), _games(finished, before, other))
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
    deployed = next((each.policies.get(policy) for each in finished if each.round == number), None) or Deployed(
        games=[]
    )
    return dict(zip(deployed.contexts, deployed.games, strict=False))


def _pairs(first: dict[str, list[int]], second: dict[str, list[int]]) -> Iterator[Games]:
    return ((game, second[context]) for context, game in first.items() if context in second)
