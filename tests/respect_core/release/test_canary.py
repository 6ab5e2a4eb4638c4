"""The sequential test of a canary: what it decides, and how often it errs."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest

from respect_core.release.canary import Canary, Conversations, Decision, Plan, judge, radius
from respect_core.release.canary_power import planned, run

RUNS = 120


def _found(*said: tuple[str, bool, int], times: int = 1) -> Conversations:
    """Of a user each, whether the candidate had them, and how many were good of one."""
    users, candidate, good = zip(*said * times, strict=True)
    names = [f"{user}-{number // len(said)}" for number, user in enumerate(users)]
    return Conversations(
        np.unique(names, return_inverse=True)[1],
        np.array(candidate),
        np.array(good, float),
        np.ones(len(names)),
    )


def _canary(**given: Any) -> Canary:
    return planned(0.5).model_copy(update=given)


GOOD, BAD = (("a", True, 1), ("b", False, 1)), (("a", True, 0), ("b", False, 1))


def test_chance_is_the_same_everywhere_and_keeps_to_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    canary = planned(0.1).model_copy(update={"seed": "1"})
    names = [f"conversation-{number}" for number in range(5_000)]
    chosen = {name for name in names if canary.chosen(name)}
    assert abs(len(chosen) / len(names) - 0.1) < 4 * sqrt(0.09 / len(names))
    assert all(canary.model_copy().chosen(name) for name in chosen)
    other = canary.model_copy(update={"seed": "2"})
    assert 25 < sum(other.chosen(name) for name in chosen) < 85, "another canary chooses afresh"
    monkeypatch.setenv("RESPECT_USER_KEY", "a secret")
    assert 25 < sum(canary.chosen(name) for name in chosen) < 85, "who does not know the key cannot tell"


def test_a_bound_holds_at_all_looks_together() -> None:
    """Of a random walk, at each of a thousand steps, up to the last share of the error."""
    rng, error = np.random.default_rng(0), 0.05
    n = np.arange(10, 1000)
    radii = np.array([radius(1 / steps, 0.2, error) for steps in n])
    walks = rng.normal(size=(2000, 1000)).cumsum(axis=1)[:, n - 1] / n
    assert (walks > radii).any(axis=1).mean() <= error
    assert (walks > radii).any(axis=1).mean() > 0.01, "and is not much too wide"
    assert all(radius(1 / steps, 0.2, 0.01) > radius(1 / steps, 0.2, 0.05) for steps in (10, 1000))


def test_it_promotes_what_is_no_worse_and_ends_what_is() -> None:
    canary = _canary(most=5000)
    assert judge(canary, _found(*GOOD, times=5)).decision is Decision.CONTINUE
    assert judge(canary, _found(*BAD, times=5)).decision is Decision.CONTINUE, "five users say nothing"
    ended = judge(canary, _found(*BAD, times=12))
    assert ended.decision is Decision.END and ended.reason.startswith("certainly worse (-8")
    promoted = judge(canary, _found(*GOOD, times=2000))
    assert promoted.decision is Decision.PROMOTE and "no worse by more than 5.0%" in promoted.reason
    assert promoted.figures.at_least > -0.05 and promoted.figures.users == 2000
    assert promoted.figures.candidate_conversations == 2000 and promoted.figures.conversations == 4000


def test_one_user_says_nothing_however_often() -> None:
    canary = _canary()
    found = _found(*BAD, times=500)
    one = Conversations(np.zeros(1000, int), found.candidate_N, found.good_N, found.of_N)
    assert judge(canary, one).decision is Decision.CONTINUE
    few = Conversations(np.arange(1000) % 8, found.candidate_N, found.good_N, found.of_N)
    assert judge(canary, few).decision is Decision.CONTINUE


def test_at_the_most_conversations_it_ends_and_what_is_deployed_stays() -> None:
    canary = _canary(most=100)
    assert judge(canary, _found(*GOOD, times=49)).decision is Decision.CONTINUE
    ended = judge(canary, _found(*GOOD, times=50))
    assert ended.decision is Decision.END and "undecided after 100 conversations" in ended.reason


def test_before_there_is_anything_it_goes_on() -> None:
    nothing = Conversations(np.array([], int), np.array([], bool), np.array([]), np.array([]))
    judged = judge(_canary(), nothing)
    assert judged.decision is Decision.CONTINUE and judged.figures.conversations == 0
    assert (judged.figures.at_least, judged.figures.at_most) == (-1.0, 1.0)
    without = Conversations(np.arange(60), np.arange(60) % 2 == 0, np.zeros(60), np.zeros(60))
    assert judge(_canary(), without).decision is Decision.CONTINUE, "no follow-up is decoded"


def test_what_turns_bad_after_long_is_found_among_the_last(rng: np.random.Generator) -> None:
    canary = planned(0.5)
    every = canary.plan.finds_harm(0.5)
    count = 4 * every + 250
    candidate, late = rng.random(count) < 0.5, np.arange(count) >= 4 * every
    good = (rng.random(count) < np.where(candidate, np.where(late, 0.2, 0.63), 0.6)).astype(float)
    found = Conversations(np.arange(count), candidate, good, np.ones(count))
    judged = judge(canary, found)
    assert judged.decision is Decision.END and f"since the {4 * every + 1:,}th" in judged.reason
    assert judged.figures.at_most > 0, "all together do not show it"
    assert judge(canary, found.part(0, 4 * every)).decision is Decision.CONTINUE


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.mark.heavy
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_an_equal_policy_is_rarely_ended_as_worse_and_a_worse_one_rarely_promoted(
    share: float, rng: np.random.Generator
) -> None:
    """Few and cheap runs; `respect gate-power --canary` makes more. Users differ much in how they take to it."""
    canary = planned(share, most=2000)
    equal = [run(canary, 0.0, rng, varies=0.15, looks=15) for _ in range(RUNS)]
    worse = [run(canary, -0.05, rng, varies=0.15, looks=15) for _ in range(RUNS)]
    most = 0.05 * RUNS + 3.7 * sqrt(RUNS * 0.05 * 0.95)  # exceeded once in ten thousand times
    assert sum(each.worse for each in equal) <= most
    assert sum(each.promoted for each in worse) <= most


@pytest.mark.heavy
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_harm_is_found_within_the_stated_conversations(share: float, rng: np.random.Generator) -> None:
    canary = planned(share)
    ends = [run(canary, -canary.plan.harm, rng) for _ in range(RUNS)]
    within = sum(each.worse and each.conversations <= 1.1 * canary.plan.finds_harm(share) for each in ends)
    assert within >= (canary.plan.power - 3.7 * sqrt(0.16 / RUNS)) * RUNS  # looks are some conversations apart


def test_more_users_are_needed_for_smaller_differences_and_shares() -> None:
    plan = Plan()
    assert plan.finds_harm(0.5) < plan.finds_harm(0.1) < plan.promotes_equal(0.1)
    assert plan.promotes_equal(0.1) > Plan(margin=0.1).promotes_equal(0.1)
