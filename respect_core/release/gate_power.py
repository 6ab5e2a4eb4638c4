"""Simulate how often the gate promotes policies that are truly better or worse: with the gate itself, not a formula.

A simulated game has at least one turn and, on average, TURNS. A policy's actions are right or wrong. Another policy's
are the same but for turns that it gains and loses, as many as make games differ as much as the gate plans. All looks at
a variant's candidates are at the same games, with more of them as later looks need more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from respect_core.interaction import TurnKey
from respect_core.release import ledger
from respect_core.release.gate import Evidence, GateConfig, judge

EFFECTS = (-0.10, -0.07, -0.05, -0.04, -0.03, -0.02, -0.01, 0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.10)
ROUNDS, STEP = 10, -0.02
"""The ratchet: in each round a candidate is truly worse than the deployed policy by this."""
TURNS = 3.7  # of the games of profile `tiny`
RIGHT = 0.5  # of the first policy's actions

_MODEL = "respect.simulated"


@dataclass(frozen=True)
class _Policy:
    name: str
    truly: float  # share of right actions, beyond any sample
    right: NDArray[np.bool_]  # turn by turn


class _Games:
    """Simulated games and how policies act in them."""

    def __init__(self, games: int, rng: np.random.Generator) -> None:
        self.rng = rng
        self.turns, self.ends = _turns(games)

    def first(self) -> _Policy:
        return _Policy("respect.seed/1", RIGHT, self.rng.random(len(self.turns)) < RIGHT)

    def changed(self, policy: _Policy, name: str, effect: float, spread: float) -> _Policy:
        """Make a policy that is truly better by the effect."""
        apart = max(spread**2 * TURNS, 1.2 * abs(effect))  # share of turns in which one of the two is right
        gained = (apart + effect) / 2 / (1 - policy.truly)
        lost = (apart - effect) / 2 / policy.truly
        drawn = self.rng.random(len(self.turns))
        right = np.where(policy.right, drawn >= lost, drawn < gained)
        return _Policy(name, policy.truly + effect, right)

    def evidence(self, policy: _Policy, games: int) -> Evidence:
        """Return what a policy did in the first games, with all else that the gate asks in order."""
        turns = self.turns[: self.ends[games - 1]]
        learned = {f"user-{number}": 100 for number in range(20)}
        return Evidence(policy.name, right=dict(zip(turns, policy.right.tolist(), strict=False)), learned=learned)


@lru_cache(maxsize=4)
def _turns(games: int) -> tuple[list[TurnKey], NDArray[np.int64]]:
    """Return the turns of games, and where each game's end."""
    lengths = 1 + np.random.default_rng(0).poisson(TURNS - 1, games)
    return [(f"{game:06}", turn) for game, of in enumerate(lengths) for turn in range(of)], np.cumsum(lengths)


def row(config: GateConfig, effect: float, runs: int, seed: int = 0, look: int = 1) -> dict[str, Any]:
    """Return, as JSON, how often the gate promotes policies that are truly better by the effect."""
    games, passed = config.asked(look), 0
    simulated = _Games(games, np.random.default_rng(seed))
    for _ in range(runs):
        first = simulated.first()
        other = simulated.changed(first, f"{_MODEL}/1", effect, config.spread)
        candidate, deployed = (simulated.evidence(policy, games) for policy in (other, first))
        passed += judge(candidate, deployed, config, look=look).promote
    return {"effect": effect, "games": games, "promoted": passed / runs}


def ratchet(config: GateConfig, seed: int = 0, rounds: int = ROUNDS, step: float = STEP) -> float:
    """Return how far what is deployed has truly moved after rounds whose candidates are truly worse by a step."""
    simulated, history = _Games(config.asked(rounds), np.random.default_rng(seed)), list[ledger.Entry]()
    first = deployed = simulated.first()
    policies = {first.name: first}
    for look in range(1, rounds + 1):
        candidate = simulated.changed(deployed, f"{_MODEL}/{look}", step, config.spread)
        policies[candidate.name] = candidate
        anchors, games = ledger.anchors(history, deployed.name, first.name), config.asked(look)
        verdict = judge(
            simulated.evidence(candidate, games),
            simulated.evidence(deployed, games),
            config,
            anchors={name: simulated.evidence(policies[each], games) for name, each in anchors.items()},
            look=look,
        )
        if verdict.promote:
            entry = ledger.promotion(
                history,
                _MODEL,
                from_version=deployed.name,
                to_version=candidate.name,
                adapter_hash="",
                actor="",
                evidence={"figures": verdict.figures},
            )
            history.append(entry)
            deployed = candidate
    return round(deployed.truly - first.truly, 9)


def summary(config: GateConfig, ends: Sequence[float]) -> dict[str, Any]:
    """Return, as JSON, where ratchets ended."""
    return {
        "rounds": ROUNDS,
        "effect": STEP,
        "games": [config.asked(look) for look in range(1, ROUNDS + 1)],
        "moved": sum(end < 0 for end in ends) / len(ends),
        "lowest": min(ends),
        "below_3": sum(end < -0.03 for end in ends) / len(ends),
    }
