"""Requests gathered into passes, and the version of each game."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence

import pytest

from respect_core.acting.batcher import Batcher, OverloadedError
from respect_core.acting.roster import Offer, Roster, seeded


class Work:
    """Doubles numbers, and refuses to do 13. The first pass waits until it is let go."""

    def __init__(self) -> None:
        self.passes: list[list[int]] = []
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.passes.append(list(items))
        self.begun.set()
        assert self.go.wait(60)
        if 13 in items:
            raise ValueError("thirteen")
        return [2 * item for item in items]


def test_what_comes_during_a_pass_shares_the_next() -> None:
    work, sizes = Work(), list[int]()
    batcher = Batcher(work, most=3, wait=0.0, observe=sizes.append)
    futures = [batcher.submit(0)]
    assert work.begun.wait(60)
    futures += [batcher.submit(number) for number in range(1, 5)]
    assert batcher.waiting == 4
    work.go.set()
    batcher.close()
    assert [future.result() for future in futures] == [0, 2, 4, 6, 8]
    assert work.passes == [[0], [1, 2, 3], [4]] and sizes == [1, 3, 1]


def test_a_pass_waits_for_more() -> None:
    work = Work()
    work.go.set()
    batcher = Batcher(work, most=2, wait=60.0)
    futures = [batcher.submit(1), batcher.submit(2)]  # the second fills the pass, which then waits no longer
    assert [future.result(timeout=60) for future in futures] == [2, 4]
    batcher.close()
    assert work.passes == [[1, 2]]


def test_one_that_fails_does_not_fail_the_others() -> None:
    work = Work()
    batcher = Batcher(work, wait=0.0)
    futures = [batcher.submit(0)]
    assert work.begun.wait(60)
    futures += [batcher.submit(number) for number in (1, 13, 2)]
    work.go.set()
    batcher.close()
    assert [futures[index].result() for index in (0, 1, 3)] == [0, 2, 4]
    with pytest.raises(ValueError, match="thirteen"):
        futures[2].result()
    assert work.passes == [[0], [1, 13, 2], [1], [13], [2]]


def test_between_passes_nothing_is_held() -> None:
    class Thing:
        pass

    def work(items: Sequence[Thing]) -> list[None]:
        return [None for _ in items]

    batcher = Batcher(work, wait=0.0)
    thing = Thing()
    held = weakref.ref(thing)
    batcher.submit(thing).result(timeout=60)
    del thing
    deadline = time.monotonic() + 60
    while held() is not None and time.monotonic() < deadline:  # the pass ends right behind the result
        time.sleep(0.01)
    assert held() is None
    batcher.close()


def test_work_that_loses_a_result_is_found_out() -> None:
    def nothing(items: Sequence[int]) -> list[int]:
        return []

    batcher = Batcher(nothing)
    with pytest.raises(RuntimeError, match="0 results for 1 items"):
        batcher.submit(1).result(timeout=60)
    batcher.close()


def test_more_than_the_queue_holds_is_refused() -> None:
    work = Work()
    batcher = Batcher(work, wait=0.0, queue=2)
    futures = [batcher.submit(0)]
    assert work.begun.wait(60)
    futures += [batcher.submit(1), batcher.submit(2)]
    with pytest.raises(OverloadedError, match="2 requests are waiting"):
        batcher.submit(3)
    work.go.set()
    assert [future.result(timeout=60) for future in futures] == [0, 2, 4]
    batcher.close()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_running_game_keeps_the_version_that_it_began_with() -> None:
    roster: Roster[str] = Roster()
    with pytest.raises(KeyError):
        roster.version("b-fft", "g1")
    roster.deploy("b-fft", "one")
    assert roster.version("b-fft", "g1") == "one"
    roster.deploy("b-fft", "two")
    roster.deploy("t-rl", "other")
    assert [roster.version("b-fft", game) for game in ("g1", "g2", "g1")] == ["one", "two", "one"]
    assert roster.version("t-rl", "g1") == "other"
    assert roster.deployed() == {"b-fft": "two", "t-rl": "other"}
    assert roster.running() == {"one": 1, "two": 1, "other": 1}
    roster.end("b-fft", "g1")
    roster.end("b-fft", "unknown")
    assert roster.running() == {"two": 1, "other": 1}
    assert roster.version("b-fft", "g1") == "two"  # begun anew


def test_a_game_ends_when_it_is_idle_for_too_long() -> None:
    clock = Clock()
    roster: Roster[str] = Roster(idle=10, clock=clock)
    roster.deploy("b-fft", "one")
    for game in ("slow", "quick"):
        roster.version("b-fft", game)
    roster.deploy("b-fft", "two")
    clock.now = 9
    assert roster.version("b-fft", "quick") == "one"
    clock.now = 11
    assert roster.version("b-fft", "slow") == "two"  # idle for 11 seconds, though nobody has looked since
    assert roster.running() == {"one": 1, "two": 1}
    clock.now = 20
    assert roster.running() == {"two": 1}


def test_a_game_that_began_elsewhere_goes_on_with_its_version() -> None:
    clock = Clock()
    roster: Roster[str] = Roster(idle=10, clock=clock)
    roster.deploy("b-fft", "two")
    assert not roster.runs("b-fft", "g1")
    assert roster.begin("b-fft", "g1", "one") == "one"
    assert roster.runs("b-fft", "g1") and roster.version("b-fft", "g1") == "one"
    assert roster.begin("b-fft", "g1", "two") == "one", "it has begun"
    clock.now = 11
    assert not roster.runs("b-fft", "g1") and roster.version("b-fft", "g1") == "two"


def test_of_too_many_games_the_one_that_waited_longest_ends() -> None:
    roster: Roster[str] = Roster(most=2)
    roster.deploy("b-fft", "one")
    for game in ("a", "b", "a", "c"):
        roster.version("b-fft", game)
    roster.deploy("b-fft", "two")
    assert [roster.version("b-fft", game) for game in ("a", "b")] == ["one", "two"]


def test_seeds_and_games_do_not_run_into_each_other() -> None:
    ids = {seeded(game, seed, ["x", "y"], []).interaction_id for seed in (1, 11) for game in ("1", "11", "1-1")}
    assert len(ids) == 6


def test_a_candidate_gets_the_games_that_chance_chooses_and_keeps_them() -> None:
    roster = Roster[str]()
    roster.withdraw("b-fft")
    roster.deploy("b-fft", "old")
    roster.offer("b-fft", Offer("old", "new", 0.5, lambda game: game.startswith("chosen")))
    assert roster.deployed() == {"b-fft": "old"} and roster.offers()["b-fft"].versions == ("old", "new")
    assert [roster.version("b-fft", game) for game in ("chosen-1", "other")] == ["new", "old"]
    roster.withdraw("b-fft")
    assert roster.offers() == {"b-fft": Offer("old")}
    assert [roster.version("b-fft", game) for game in ("chosen-1", "chosen-2")] == ["new", "old"]
    roster.offer("b-fft", Offer("old", "new", 0.5, lambda _: True))
    assert roster.version("b-fft", "other") == "old", "it runs"
    roster.deploy("b-fft", "newer")
    assert roster.version("b-fft", "chosen-3") == "newer" and roster.running() == {"new": 1, "old": 2, "newer": 1}
