"""Decide, while users meet it, whether a candidate stays: a sequential test of a small share of conversations.

Chance gives each new conversation to the candidate or to the deployed version. The difference of what is good among
them, candidate minus deployed, has an interval that holds at all looks together, however many there are and whenever
they are: Robbins' normal mixture, one-sided (Robbins, Annals of Mathematical Statistics 41, 1970), of an estimate that
is normal where there are many users (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, Annals of Statistics 52, 2024;
Johari, Koomen, Pekelis and Walsh, Operations Research 70, 2022). Four things are ours:
1. Conversations of a user depend on each other, and a user has some of both versions: the variance is that of the
   residuals of the two shares, added up by user.
2. Each version has one good and one bad conversation more than it had (Agresti and Caffo, The American Statistician 54,
   2000), or else a version whose first conversations all ended alike would seem certain.
3. A version may turn bad later. Worse is also looked for among the conversations since the n-th, the 2n-th, ..., where
   n are those that find harm. All have a share of the error rate.
4. Nothing is concluded from few users.

Shapes: N conversations in order of their beginning, U users.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, log, sqrt
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from respect_core.log.pseudonyms import chance
from respect_core.stats import Floats

Criterion = Literal["success", "follow-ups"]
"""What is good: a game that is won, or a follow-up that is not negative."""
_NORMAL = NormalDist()


def share(text: str) -> float:
    """Return the share that a text such as '10%' or '0.1' names. Raises ValueError for none between 0 and 1."""
    try:
        number = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        number = 0.0
    if not 0 < number < 1:
        raise ValueError(f"{text!r} is no share of conversations: write it as 10% or 0.1")
    return number


class Plan(BaseModel):
    """The sequential test's settings. Shares lie between 0 and 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    margin: float = Field(default=0.05, gt=0, lt=1)  # a loss that counts as no worse
    alpha: float = Field(default=0.05, gt=0, lt=1)  # that over all looks an equal policy is ended as worse, or one that
    # is worse by more than the margin promoted
    harm: float = Field(default=0.15, gt=0, lt=1)  # a loss that is found soon
    power: float = Field(default=0.8, gt=0, lt=1)  # with which it is found, and an equal policy promoted
    spread: float = Field(
        default=0.5, gt=0
    )  # standard deviation of a conversation, for planning: the largest of a share
    harm_users: int = Field(default=10, ge=2)  # of the candidate: fewer do not say that it is worse
    users: int = Field(default=30, ge=2)  # of the candidate: fewer do not say that it is no worse

    def needed(self, effect: float, error: float, share: float) -> int:
        """Return the conversations, of both versions, after which a difference is found with the power.

        Args:
            effect: true distance from where the error rate is spent, for which the test's mixture is made as well.
            share: of the candidate.
        """
        low, high = 0.0, effect**2
        for _ in range(60):
            variance = (low + high) / 2
            reach = radius(variance, effect, error) + _NORMAL.inv_cdf(self.power) * sqrt(variance)
            low, high = (variance, high) if reach < effect else (low, variance)
        return ceil(self.spread**2 / (share * (1 - share) * low))

    def finds_harm(self, share: float) -> int:
        """Return the conversations after which a candidate that is worse by `harm` from the first one on is found."""
        return self.needed(self.harm, self.alpha / 2, share)

    def promotes_equal(self, share: float) -> int:
        """Return the conversations after which an equal candidate is promoted."""
        return self.needed(self.margin, self.alpha, share)


class Canary(BaseModel):
    """A candidate that some new conversations get, and how it is decided on. It begins with its entry in the ledger."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    candidate: str  # as 'respect.b-fft/3'
    adapter_hash: str  # of the candidate
    profile: str  # with which it was trained
    criterion: Criterion
    share: float = Field(gt=0, lt=1)  # of new conversations
    seed: str  # of chance
    plan: Plan
    most: int = Field(ge=1)  # conversations of both versions, after which it ends

    def chosen(self, conversation: str) -> bool:
        """Return whether a new conversation gets the candidate, on every server alike and for no client to say."""
        return chance(self.seed, conversation) < self.share


class Decision(StrEnum):
    CONTINUE = "continue"
    PROMOTE = "promote"
    END = "end"


@dataclass(frozen=True)
class Conversations:
    """What became of conversations that chance assigned, in order of their beginning.

    `user_N`: numbers of users. `candidate_N`: whether the candidate had it. `good_N` of `of_N` in it were good: of one
    game, or of its decoded follow-ups, which may be none.
    """

    user_N: NDArray[np.int64]
    candidate_N: NDArray[np.bool_]
    good_N: Floats
    of_N: Floats

    def __len__(self) -> int:
        return len(self.user_N)

    def part(self, start: int, stop: int | None = None) -> Conversations:
        """Return those from one place to another."""
        where = slice(start, stop)
        return Conversations(self.user_N[where], self.candidate_N[where], self.good_N[where], self.of_N[where])


class Figures(BaseModel):
    """What a look found. `users`: those with an outcome of the candidate. Shares are of what is good."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    conversations: int
    candidate_conversations: int
    users: int
    candidate: float
    deployed: float
    difference: float
    at_least: float  # each end errs with `alpha` at most, over all looks
    at_most: float


class Judged(BaseModel):
    """A decision and why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    decision: Decision
    reason: str
    figures: Figures


@dataclass(frozen=True)
class _Compared:
    shares: tuple[float, float]  # of the candidate, and of the deployed version
    variance: float  # of their difference
    users: int

    @property
    def difference(self) -> float:
        return self.shares[0] - self.shares[1]


def radius(variance: float, effect: float, error: float) -> float:
    """Return by how much an estimate exceeds the truth at any look with probability `error` at most.

    The mixture over true differences is half of a normal curve, whose deviation is 0.75 of the effect: the bound is
    then narrowest where this effect is about to be found.

    Args:
        variance: of the estimate, at this look.
    """
    prior = (0.75 * effect) ** 2
    bound = 0.5 * log(1 + prior / variance) - log(error)
    standard = sqrt(2 * bound)
    for _ in range(8):  # solves log(2 Phi(x)) + x^2 / 2 = bound, where the first term lies between 0 and log 2
        standard = sqrt(2 * (bound - log(2 * _NORMAL.cdf(standard))))
    return standard * sqrt(variance * (1 + variance / prior))


def judge(canary: Canary, found: Conversations) -> Judged:
    """Decide on a canary at a look."""
    plan, whole = canary.plan, _compare(found)
    figures = Figures(
        conversations=len(found),
        candidate_conversations=int(found.candidate_N.sum()),
        users=whole.users,
        candidate=whole.shares[0],
        deployed=whole.shares[1],
        difference=whole.difference,
        at_least=max(-1.0, whole.difference - radius(whole.variance, plan.margin, plan.alpha)),
        at_most=min(1.0, whole.difference + radius(whole.variance, plan.harm, plan.alpha / 2)),
    )
    for start, error in _starts(canary):
        since = whole if not start else _compare(found.part(start))
        if start >= len(found) or since.users < plan.harm_users:
            break
        at_most = since.difference + radius(since.variance, plan.harm, error)
        if at_most < 0:
            when = f"in the conversations since the {start + 1:,}th " if start else ""
            reason = f"certainly worse {when}({since.difference:+.1%}, at most {at_most:+.1%})"
            return Judged(decision=Decision.END, reason=reason, figures=figures)
    between = f"{figures.difference:+.1%}, between {figures.at_least:+.1%} and {figures.at_most:+.1%}"
    if figures.at_least > -plan.margin and whole.users >= plan.users:
        reason = f"certainly no worse by more than {plan.margin:.1%} ({between})"
        return Judged(decision=Decision.PROMOTE, reason=reason, figures=figures)
    if len(found) >= canary.most:
        reason = f"undecided after {len(found):,} conversations ({between}): what is deployed stays"
        return Judged(decision=Decision.END, reason=reason, figures=figures)
    return Judged(decision=Decision.CONTINUE, reason=f"undecided so far ({between})", figures=figures)


def _starts(canary: Canary) -> Iterator[tuple[int, float]]:
    """Yield from which conversation on worse is looked for, each with its share of the error rate.

    The first has half of it, and the others share the rest.
    """
    every = canary.plan.finds_harm(canary.share)
    later = range(every, canary.most, every)
    yield 0, canary.plan.alpha / 2
    for start in later:
        yield start, canary.plan.alpha / 2 / len(later)


def _compare(found: Conversations) -> _Compared:
    """Compare the shares of what is good. The variance is of their ratio estimates, over users."""
    _, user_N = np.unique(found.user_N, return_inverse=True)
    residual_U, variance, shares, users = np.zeros(int(user_N.max(initial=-1)) + 1), 0.0, [], []
    for sign, arm_N in ((1, found.candidate_N), (-1, ~found.candidate_N)):
        good_U, of_U = (
            np.bincount(user_N[arm_N], values[arm_N], len(residual_U)) for values in (found.good_N, found.of_N)
        )
        total = float(of_U.sum()) + 2
        share = (float(good_U.sum()) + 1) / total
        residual_U += sign * (good_U - share * of_U) / total
        variance += (share**2 + (1 - share) ** 2) / total**2
        shares.append(share)
        users.append(int((of_U > 0).sum()))
    count = len(residual_U)
    variance += float(residual_U @ residual_U) * count / max(1, count - 1)
    return _Compared((shares[0], shares[1]), variance, users[0])
