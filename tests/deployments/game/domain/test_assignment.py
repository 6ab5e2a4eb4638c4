"""Assignment of arriving players: balanced, at random, reproducible."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from deployments.game.domain.assignment import Assignment, Slot, StudyFullError

POLICIES = ["b-fft", "t-fft", "b-rl", "t-rl", "b-kto", "t-kto", "control", "hh"]
CONTEXTS = [f"context-{number}" for number in range(330)]


def _assignment(seed: int = 0, **limits: int) -> Assignment:
    return Assignment(CONTEXTS, dict.fromkeys(POLICIES, 1), seed, **limits)


@pytest.mark.heavy
def test_ten_thousand_arrivals_are_balanced_within_one_and_reproducible() -> None:
    first, second, other = _assignment(), _assignment(), _assignment(seed=1)
    slots = [first.draw() for _ in range(10_000)]
    assert slots == [second.draw() for _ in range(10_000)]
    assert slots != [other.draw() for _ in range(10_000)]
    counts = first.counts()
    assert all(max(games.values()) - min(games.values()) <= 1 for games in counts.values())
    totals = [sum(games.values()) for games in counts.values()]
    assert sum(totals) == 10_000 and max(totals) - min(totals) <= 1


@pytest.mark.parametrize(("contexts", "policies"), [pytest.param(330, 8, marks=pytest.mark.heavy), (6, 3)])
def test_games_that_run_and_break_off_leave_no_more_than_themselves_to_give_again(contexts: int, policies: int) -> None:
    """40 games run at once, and every tenth breaks off. Nobody meets a context twice."""
    shares = dict.fromkeys(POLICIES[:policies], 1)
    assignment, rng = Assignment(CONTEXTS[:contexts], shares, 0), random.Random(0)
    seen: dict[int, set[str]] = {}
    running: list[Slot] = []
    owed: Counter[Slot] = Counter()  # broken off and not yet given again
    furthest = 0
    for player in range(10_000):
        played = seen.setdefault(player // 5, set())
        slot = assignment.draw(played)
        assert slot.context not in played
        played.add(slot.context)
        owed[slot] -= owed[slot] > 0
        running.append(slot)
        while len(running) > 40:
            over = running.pop(rng.randrange(len(running)))
            if rng.random() < 0.1:
                assignment.release(over)
                owed[over] += 1
        if player % 25 == 0:
            for context, games in assignment.counts().items():
                most = max(games.values())
                for policy, count in games.items():
                    behind = most - count
                    assert behind <= 1 + owed[Slot(context, policy)]
                    furthest = max(furthest, behind)
    assert furthest > 1, "one alone would be too little to promise"


def test_a_full_study_is_even_whatever_broke_off() -> None:
    assignment, rng = Assignment(CONTEXTS[:6], dict.fromkeys(POLICIES[:3], 1), 0, limit=5), random.Random(0)
    running: list[Slot] = []
    while True:
        try:
            running.append(assignment.draw())
        except StudyFullError:
            if not running:
                break
        if len(running) > 20 or rng.random() < 0.4:
            over = running.pop(rng.randrange(len(running)))
            if rng.random() < 0.2:
                assignment.release(over)
    assert all(set(games.values()) == {5} for games in assignment.counts().values())


def test_the_order_of_policies_is_not_foreseen() -> None:
    """The first of the eight in each context is a different one, about equally often."""
    assignment = _assignment()
    firsts = [assignment.draw() for _ in CONTEXTS]
    by_policy = [sum(slot.policy == policy for slot in firsts) for policy in POLICIES]
    assert min(by_policy) > 20 and max(by_policy) < 65  # 41 are expected, with a deviation of 6


def test_each_policy_plays_each_context_once_and_then_it_is_full() -> None:
    assignment = Assignment(["a", "b"], {"b-fft": 1, "control": 2}, 0, limit=1)
    slots = [assignment.draw() for _ in range(6)]
    assert sorted((slot.context, slot.policy) for slot in slots) == sorted(
        [(context, policy) for context in "ab" for policy in ("b-fft", "control", "control")]
    )
    assert assignment.quota("control") == 4
    with pytest.raises(StudyFullError):
        assignment.draw()
    assignment.release(Slot("a", "b-fft"))
    assert assignment.draw() == Slot("a", "b-fft")


def test_it_goes_on_after_a_restart_as_if_there_had_been_none() -> None:
    whole, before, after = _assignment(), _assignment(), _assignment()
    slots = [whole.draw() for _ in range(500)]
    for _ in range(300):
        after.take(before.draw())
    after.draws = 300
    assert [after.draw() for _ in range(200)] == slots[300:]


def test_a_policy_that_is_away_is_left_out() -> None:
    assignment = Assignment(["a"], {"b-fft": 1, "hh": 1}, 0)
    assert [assignment.draw(without={"hh"}).policy for _ in range(3)] == ["b-fft"] * 3
    assert assignment.draw().policy == "hh"
    with pytest.raises(StudyFullError):
        assignment.draw(seen={"a"})


@pytest.mark.parametrize(
    ("contexts", "shares"), [([], {"b-fft": 1}), (["a", "a"], {"b-fft": 1}), (["a"], {"b-fft": 0})]
)
def test_what_cannot_be_assigned_is_refused(contexts: list[str], shares: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        Assignment(contexts, shares, 0)
