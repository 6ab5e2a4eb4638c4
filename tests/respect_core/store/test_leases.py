"""Leases: one holder at a time, on either store; what becomes of one that is killed, or that sleeps."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest

from respect_core.store import leases
from respect_core.store.base import Store
from respect_core.store.leases import lease
from respect_core.store.open import open_store


def test_one_at_a_time(store: Store) -> None:
    inside: list[int] = []
    most: list[int] = []
    tried = Event()

    def hold(number: int) -> bool:
        with lease(store, "one", tried.set) as waited:
            assert tried.wait(60)
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.02)
            inside.remove(number)
        return waited

    with ThreadPoolExecutor(3) as pool:
        waited = list(pool.map(hold, range(5)))
    assert most == [1] * 5 and any(waited)
    with lease(store, "one") as waited_again, lease(store, "another"):
        assert not waited_again


def test_who_waits_says_so_once(store: Store) -> None:
    said: list[int] = []
    tried = Event()

    def waits() -> None:
        said.append(1)
        tried.set()

    def second() -> None:
        with lease(store, "one", waits):
            pass

    with ThreadPoolExecutor(1) as pool:
        with lease(store, "one"):
            waiting = pool.submit(second)
            assert tried.wait(30)
            time.sleep(0.5)
            assert not waiting.done()
        waiting.result(30)
    assert said == [1]


def test_who_is_overtaken_says_that_it_waits(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It found the lease free, and another was quicker."""
    said, other, write = list[int](), ExitStack(), leases._Lease.write

    def overtaken(self: leases._Lease, data: bytes) -> bool:
        monkeypatch.setattr(leases._Lease, "write", write)
        other.enter_context(lease(store, "one"))
        return write(self, data)

    def waits() -> None:
        said.append(1)
        other.close()

    monkeypatch.setattr(leases._Lease, "write", overtaken)
    with lease(store, "one", waits) as waited:
        assert waited and said == [1]


_HOLDS = """
import sys, time
from respect_core.store.leases import lease
from respect_core.store.open import open_store

with lease(open_store(sys.argv[1]), "one", seconds=float(sys.argv[2])):
    print("inside", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("elsewhere", [False, True], ids=["on this machine", "on another"])
def test_a_holder_that_was_killed(store: Store, monkeypatch: pytest.MonkeyPatch, elsewhere: bool) -> None:
    seconds = 2 if elsewhere else 600
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDS, store.uri, str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "inside\n"
    if elsewhere:
        monkeypatch.setattr(leases, "_place", lambda: "another machine")
    holder.kill()
    holder.wait()
    started = time.monotonic()
    with lease(store, "one") as waited:
        assert waited == elsewhere
    assert (time.monotonic() - started >= seconds) == elsewhere


def test_a_holder_that_gives_signs_is_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which the lease has nearly lapsed after each sign."""
    clock, tried = [0.0], Event()
    monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=time.sleep))
    with ThreadPoolExecutor(1) as pool:
        with lease(store, "one", seconds=1):
            waiting = pool.submit(_take_and_leave, store, tried.set)
            assert tried.wait(30)
            for _ in range(4):
                before = store.read("leases/one.json")
                while store.read("leases/one.json") == before:
                    time.sleep(0.02)
                clock[0] += 0.9
            assert not waiting.done()
        assert waiting.result(30)


def _take_and_leave(store: Store, waits: Callable[[], None] = lambda: None) -> bool:
    with lease(store, "one", waits) as waited:
        return waited


def test_a_holder_that_sleeps_loses_the_lease_and_ends_nobody_elses(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as later:
        with monkeypatch.context() as patch:
            patch.setattr(leases._Lease, "renew", lambda *_: None)
            with lease(store, "one", seconds=0.5):
                assert later.enter_context(lease(store, "one"))
                held = store.read("leases/one.json")
        assert store.read("leases/one.json") == held
    assert not _take_and_leave(store)


def test_a_disk_that_is_full_does_not_keep_the_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path)
    with monkeypatch.context() as patch, lease(store, "one"):
        patch.setattr(os, "fsync", _no_room)
    assert not _take_and_leave(store)


def _no_room(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
