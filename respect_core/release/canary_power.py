"""Simulate what canaries of policies that are truly better or worse come to: with the shipped test, not a formula.

A simulated user comes back a few times, has a share of good conversations of their own, and takes to the candidate more
or less than others do. Looks are spread over the conversations that a canary may have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from respect_core.release.canary import Canary, Conversations, Decision, Plan, judge

EFFECTS = (-0.20, -0.15, -0.10, -0.07, -0.05, -0.03, -0.01, 0.0, 0.03, 0.05, 0.10)
LOOKS = 60
PER_USER = 5
"""Conversations of a user on average, over the longest canary."""


@dataclass(frozen=True)
class Ending:
    """How a simulated canary ended, and after how many conversations, of both versions and of the candidate."""

    promoted: bool
    worse: bool
    conversations: int
    candidate_conversations: int


def planned(share: float, plan: Plan | None = None, most: int | None = None) -> Canary:
    """Return a canary of a simulated candidate."""
    plan = plan or Plan()
    return Canary(
        candidate="respect.simulated/1",
        adapter_hash="",
        profile="",
        criterion="success",
        share=share,
        seed="",
        plan=plan,
        most=most or plan.promotes_equal(share),
    )


def run(
    canary: Canary, effect: float, rng: np.random.Generator, *, turns: int = 0, varies: float = 0.1, looks: int = LOOKS
) -> Ending:
    """Simulate one canary.

    Args:
        effect: the true difference of the candidate, from the conversation `turns` on; before that it is equal.
        varies: deviation of what it is for each user.
    """
    users = max(2, canary.most // PER_USER)
    weight_U = rng.lognormal(0, 1, users)
    user_N = rng.choice(users, canary.most, p=weight_U / weight_U.sum())
    good_U = rng.uniform(0.35, 0.85, users)
    own_U = rng.choice((-varies, varies), users)
    candidate_N = rng.random(canary.most) < canary.share
    late_N = np.arange(canary.most) >= turns
    right_N = good_U[user_N] + candidate_N * (late_N * effect + own_U[user_N])
    won_N = rng.random(canary.most) < right_N
    every = Conversations(user_N, candidate_N, won_N.astype(float), np.ones(canary.most))
    for stop in sorted({round(canary.most * (number / looks) ** 1.5) for number in range(1, looks + 1)}):
        judged = judge(canary, every.part(0, stop))
        if judged.decision is not Decision.CONTINUE:
            break
    figures = judged.figures
    return Ending(
        judged.decision is Decision.PROMOTE,
        judged.reason.startswith("certainly worse"),
        figures.conversations,
        figures.candidate_conversations,
    )


def row(canary: Canary, effect: float, runs: int, seed: int = 0) -> dict[str, Any]:
    """Return, as JSON, what canaries of policies that are truly better by the effect come to."""
    rng = np.random.default_rng(seed)
    return {"effect": effect, **summary([run(canary, effect, rng) for _ in range(runs)])}


def summary(ends: Sequence[Ending]) -> dict[str, Any]:
    """Return, as JSON, how canaries ended."""
    conversations = [end.conversations for end in ends]
    return {
        "promoted": sum(end.promoted for end in ends) / len(ends),
        "rolled_back": sum(end.worse for end in ends) / len(ends),
        "undecided": sum(not end.promoted and not end.worse for end in ends) / len(ends),
        "conversations_median": int(median(conversations)),
        "conversations_p95": int(np.quantile(conversations, 0.95)),
        "candidate_conversations_p95": int(np.quantile([end.candidate_conversations for end in ends], 0.95)),
    }


def turning(canary: Canary, runs: int, effect: float = -0.15, seed: int = 0) -> dict[str, Any]:
    """Return, as JSON, what canaries come to whose candidate is as good as the deployed version, and then worse.

    It turns once the conversations are over after which it would have been found, had it been as bad from the first on.
    `more`: conversations from there to the end.
    """
    rng, turns = np.random.default_rng(seed), canary.plan.finds_harm(canary.share)
    ends = [run(canary, effect, rng, turns=turns) for _ in range(runs)]
    more = [end.conversations - turns for end in ends if end.worse and end.conversations > turns]
    found = summary(ends)
    return {
        "effect": effect,
        "turns": turns,
        **{name: found[name] for name in ("promoted", "rolled_back", "undecided")},
        "more_median": int(median(more or [0])),
        "more_p95": int(np.quantile(more or [0], 0.95)),
    }
