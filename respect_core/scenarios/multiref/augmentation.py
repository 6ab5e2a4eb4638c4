"""Deselection augmentation of D0 (appendix B.2, figure 13).

Deviations from the paper, and why:
1. An augmented turn ends a copy of the beginning of a D0 game, under an id of its own. The paper shows one such
   prompt and not how many turns before it are kept: all are, since whole games are packed anyway.
2. Two kinds are made in equal parts, as the authors' code has them: undo the last selection, and clear all. Their
   number is 1:12 of D0 (appendix B.2); the authors' code samples with 0.06 + 0.06 to 0.88, which is 1:7.
3. The utterances are a fixed list that draws from the phrases of appendix B.4; the paper gives one example.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from respect_core.scenario import Row
from respect_core.scenarios.multiref import actions

Kind = Literal["undo", "clear"]

UNDO = (
    "wrong undo what you selected",
    "no undo that",
    "not that one deselect it",
    "no deselect the last one",
    "undo the last one",
    "wrong one remove that",
    "no unselect that",
    "undo your last move",
)
CLEAR = (
    "deselect everything",
    "deselect all",
    "clear all",
    "no start over",
    "remove all of them",
    "reset",
    "unselect everything",
    "wrong clear everything and start over",
)


def augment(rows: Sequence[Row], ratio: float, seed: int) -> list[Row]:
    """Make whole augmented games: as many as `ratio` asks for, where D0 has that many places to cut it.

    Args:
        rows: of a training set, in order of interaction and turn.
        ratio: augmented turns per labelled turn.
        seed: of places and phrases.
    """
    games: dict[str, list[Row]] = {}
    for row in rows:
        games.setdefault(row["interaction_id"], []).append(row)
    wanted = round(ratio * sum(row["label"] is not None for row in rows))
    kinds: tuple[Kind, Kind] = ("undo", "clear")
    random = np.random.default_rng([seed, len(rows)])
    result: list[Row] = []
    for kind, count in zip(kinds, ((wanted + 1) // 2, wanted // 2), strict=True):
        cuts = [(game, turn) for game in games for turn in range(len(games[game])) if _undone(games[game][turn], kind)]
        for place in sorted(random.permutation(len(cuts))[:count]):
            game, turn = cuts[place]
            result += _extended(games[game][: turn + 1], kind, random)
    return result


def _undone(row: Row, kind: Kind) -> str:
    """The letters that an augmented turn after this one deselects; none where this is no place for one."""
    action = actions.parse(row["action"])
    if kind == "undo":
        return action.select
    after = actions.apply(action, row["state"])
    # With one letter selected, clearing is the same as undoing.
    return after if len(after) > 1 else ""


def _extended(beginning: list[Row], kind: Kind, random: np.random.Generator) -> list[Row]:
    last = beginning[-1]
    utterances = UNDO if kind == "undo" else CLEAR
    added = last | {
        "turn": last["turn"] + 1,
        "state": actions.apply(actions.parse(last["action"]), last["state"]),
        "utterance": utterances[random.integers(len(utterances))],
        "action": str(actions.Action(deselect=_undone(last, kind))),
        "probability": None,
        "label": 1,
    }
    name = f"{last['interaction_id']}~{kind}{added['turn']}"
    context = [row | {"label": None} for row in beginning]
    return [row | {"interaction_id": name, "source": kind} for row in [*context, added]]
