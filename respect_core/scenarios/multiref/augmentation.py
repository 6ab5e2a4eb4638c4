"""Augment D0 with deselections (appendix B.2, figure 13).

Deviations from the paper, and why:
1. An augmented turn ends a copy of the beginning of a D0 game, under its own id. The paper shows one such prompt but
   not how many of the turns before it are kept: here all are, since whole games are packed anyway.
2. Two kinds are made in equal parts, as in the authors' code: undo the last selection, and clear all. Their number is
   1:12 of D0 (appendix B.2); the authors' code samples with 0.06 + 0.06 to 0.88, which is 1:7.
3. The utterances are a fixed list based on the phrases of appendix B.4; the paper gives one example.
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
    """Make whole augmented games: as many as `ratio` asks for, or as many as D0 has places to cut a game.

    Args:
        rows: a training set's, in order of interaction and turn.
        ratio: augmented turns per labelled turn.
        seed: for places and phrases.
    """
    games: dict[str, list[Row]] = {}
    for row in rows:
        games.setdefault(row["interaction_id"], []).append(row)
    total = round(ratio * sum(row["label"] is not None for row in rows))
    kinds: tuple[Kind, Kind] = ("undo", "clear")
    random = np.random.default_rng([seed, len(rows)])
    result: list[Row] = []
    for kind, count in zip(kinds, ((total + 1) // 2, total // 2), strict=True):
        cuts = [
            (game, turn)
            for game in games
            for turn in range(len(games[game]))
            if _letters_to_deselect(games[game][turn], kind)
        ]
        for place in sorted(random.permutation(len(cuts))[:count]):
            game, turn = cuts[place]
            result += _extend(games[game][: turn + 1], kind, random)
    return result


def _letters_to_deselect(row: Row, kind: Kind) -> str:
    """Return the letters that an augmented turn after this one deselects; empty where none can follow."""
    action = actions.parse(row["action"])
    if kind == "undo":
        return action.select
    after = actions.apply(action, row["state"])
    # With one letter selected, clearing is the same as undoing.
    return after if len(after) > 1 else ""


def _extend(beginning: list[Row], kind: Kind, random: np.random.Generator) -> list[Row]:
    last = beginning[-1]
    utterances = UNDO if kind == "undo" else CLEAR
    turn = last | {
        "turn": last["turn"] + 1,
        "state": actions.apply(actions.parse(last["action"]), last["state"]),
        "utterance": utterances[random.integers(len(utterances))],
        "action": str(actions.Action(deselect=_letters_to_deselect(last, kind))),
        "probability": None,
        "label": 1,
    }
    name = f"{last['interaction_id']}~{kind}{turn['turn']}"
    context = [row | {"label": None} for row in beginning]
    return [row | {"interaction_id": name, "source": kind} for row in [*context, turn]]
