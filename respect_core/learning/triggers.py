"""Measure what words cost a policy that are put around every utterance of held-out games."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from respect_core.acting.policy import Policy
from respect_core.interaction import Interaction, TurnKey
from respect_core.learning.validation import exact_match
from respect_core.log.lengths import LONGEST_UTTERANCE
from respect_core.model import packing
from respect_core.scenario import Scenario


def costs(
    policy: Policy, games: Sequence[Interaction], right: Collection[TurnKey], words: Sequence[str]
) -> Iterator[dict[TurnKey, float]]:
    """Yield for each word by how much the gate's criterion falls on each right turn.

    Games in which one of the words leaves too little room count as losing nothing.
    """
    plain = _scores(policy, games, right)
    for word in words:
        said = [around(game, word) for game in games]
        fitting = [game for game in said if _fits(policy, game)]
        scores = _scores(policy, fitting, right)
        yield {turn: score - scores.get(turn, score) for turn, score in plain.items()}


def around(game: Interaction, word: str) -> Interaction:
    """Return a game with a word before and after each utterance that has room for it."""

    def said(utterance: str) -> str:
        text = f"{word} {utterance} {word}"
        return text if len(text) <= LONGEST_UTTERANCE else utterance

    return replace(game, turns=tuple(replace(turn, utterance=said(turn.utterance)) for turn in game.turns))


def _scores(policy: Policy, games: Sequence[Interaction], right: Collection[TurnKey]) -> dict[TurnKey, float]:
    ids = {game.interaction_id for game in games}
    turns = [(name, turn) for name, turn in right if name in ids]
    return dict(exact_match(policy, games, turns, count_illegal=False).scores) if turns else {}


def _fits(policy: Policy, game: Interaction) -> bool:
    scenario: Scenario = policy.base.scenario
    try:
        packing.encode(game, policy.base.processor, scenario)
    except packing.GameError:
        return False
    return True
