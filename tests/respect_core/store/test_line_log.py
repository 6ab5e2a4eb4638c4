"""The log of lines: on disk at once, in the store soon, nothing lost and nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from paths import REPOSITORY, TESTS
from served import turn

from respect_core.acting.served_turns import SERVED, read
from respect_core.store.base import Store, StoreError
from respect_core.store.line_log import LineLog
from respect_core.store.open import open_store

KILLED = """
import os, signal, sys
from pathlib import Path
from served import turn
from respect_core.store.line_log import LineLog
from respect_core.store.open import open_store
log = LineLog(open_store(sys.argv[1]), Path(sys.argv[2]), "served")
for number in range(5):
    log.add(turn(number))
os.write(log._file.fileno(), b'{"time": "2026')  # in the middle of a line
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_added_is_in_the_store_once(store: Store, tmp_path: Path) -> None:
    log = LineLog(store, tmp_path / "served", SERVED)
    log.flush()
    assert list(read(store)) == []
    log.add(turn(0))
    log.add(turn(1))
    log.flush()
    log.flush()
    log.add(turn(2))
    log.flush()
    assert [each.turn for each in read(store)] == [0, 1, 2]
    assert len(store.keys("served/")) == 2 and not list((tmp_path / "served").iterdir())


def test_a_killed_server_loses_no_turn_that_was_answered(tmp_path: Path) -> None:
    place, folder = tmp_path / "store", tmp_path / "served"
    path = os.pathsep.join([str(TESTS), str(REPOSITORY)])
    command = [sys.executable, "-c", KILLED, str(place), str(folder)]
    killed = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    store = open_store(place)
    assert not store.keys("served/")
    LineLog(store, folder, SERVED).flush()
    assert [each.turn for each in read(store)] == [0, 1, 2, 3, 4]
    assert not list(folder.iterdir())


def test_killed_between_store_and_disk_nothing_is_there_twice(tmp_path: Path) -> None:
    store, folder = open_store(tmp_path / "store"), tmp_path / "served"
    log = LineLog(store, folder, SERVED)
    log.add(turn(0))
    (file,) = folder.iterdir()
    data = file.read_bytes()
    log.flush()
    file.write_bytes(data)
    log.flush()
    assert len(list(read(store))) == 1 and not list(folder.iterdir())


def test_two_servers_leave_each_other_s_file_alone(tmp_path: Path) -> None:
    store, folder = open_store(tmp_path / "store"), tmp_path / "served"
    one, other = LineLog(store, folder, SERVED), LineLog(store, folder, SERVED)
    one.add(turn(0))
    other.add(turn(1))
    other.flush()
    one.add(turn(2))
    assert [each.turn for each in read(store)] == [1]
    one.flush()
    assert sorted(each.turn for each in read(store)) == [0, 1, 2]


def test_while_the_store_is_away_lines_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "store")
    log = LineLog(store, tmp_path / "served", SERVED)
    log.add(turn(0))
    with monkeypatch.context() as patch:

        def away(*_: object) -> bool:
            raise StoreError("away")

        patch.setattr(type(store), "put_if_absent", away)
        with pytest.raises(StoreError):
            log.flush()
        log.add(turn(1))
    log.flush()
    assert [each.turn for each in read(store)] == [0, 1]


def test_a_line_that_the_disk_does_not_take_leaves_no_half(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    resource = pytest.importorskip("resource", reason="this system knows no limit on the size of files")
    store = open_store(tmp_path / "store")
    log = LineLog(store, tmp_path / "served", SERVED)
    log.add(turn(0))
    (file,) = (tmp_path / "served").iterdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 10, hard))
        with pytest.raises(OSError):
            log.add(turn(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    log.add(turn(2))
    log.flush()
    assert [each.turn for each in read(store)] == [0, 2]
