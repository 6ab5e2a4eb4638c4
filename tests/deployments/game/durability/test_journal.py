"""The journal: what was acknowledged is there, whatever happens to the last line, the disk, or the process."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from deployments.game.durability.journal import Journal, JournalInUseError, NotWrittenError


def _events(folder: Path) -> list[dict[str, Any]]:
    journal = Journal(folder)
    found = list(journal.events())
    journal.close()
    return found


def _filled(folder: Path, numbers: range) -> Path:
    journal = Journal(folder)

    async def write() -> None:
        await asyncio.gather(*(journal.write({"kind": "n", "n": number}) for number in numbers))

    asyncio.run(write())
    journal.close()
    return sorted(folder.glob("*.jsonl"))[-1]


def test_events_come_back_in_order_over_several_servers(tmp_path: Path) -> None:
    _filled(tmp_path, range(500))
    _filled(tmp_path, range(500, 800))
    assert [event["n"] for event in _events(tmp_path)] == list(range(800))


def test_those_who_wait_together_share_a_sync(tmp_path: Path) -> None:
    """A sync that is held up takes along all that came meanwhile."""
    syncs, go = [], threading.Event()

    def slow(descriptor: int) -> None:
        go.wait(10)
        syncs.append(descriptor)

    journal = Journal(tmp_path, slow)
    written = [journal.submit({"kind": "n", "n": number}) for number in range(200)]
    go.set()
    for future in written:
        future.result(10)
    journal.close()
    assert len(syncs) <= 3


def test_whoever_stops_waiting_does_not_stop_the_journal(tmp_path: Path) -> None:
    go = threading.Event()

    def slow(_: int) -> None:
        go.wait(10)

    journal = Journal(tmp_path, slow)

    async def write() -> None:
        waits = asyncio.create_task(journal.write({"kind": "n", "n": 1}))
        await asyncio.sleep(0.1)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        go.set()
        async with asyncio.timeout(10):
            await journal.write({"kind": "n", "n": 2})

    asyncio.run(write())
    journal.close()
    assert [event["n"] for event in _events(tmp_path)] == [1, 2]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_passed_over(tmp_path: Path, cut: int) -> None:
    path = _filled(tmp_path, range(10))
    os.truncate(path, path.stat().st_size - cut)
    assert [event["n"] for event in _events(tmp_path)] == list(range(9))


def test_a_damaged_line_is_passed_over_and_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _filled(tmp_path, range(10))
    lines = path.read_bytes().split(b"\n")
    lines[4] = lines[4].replace(b"4", b"7")
    path.write_bytes(b"\n".join(lines))
    assert [event["n"] for event in _events(tmp_path)] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert f"{path}, line 5" in caplog.text


class Disk:
    """Whose sync fails with `fault` while there is one."""

    def __init__(self) -> None:
        self.fault: BaseException | None = None

    def sync(self, descriptor: int) -> None:
        if self.fault is not None:
            raise self.fault
        os.fsync(descriptor)


@pytest.mark.parametrize(
    "fault", [OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "broken"), ValueError("a fault of ours")]
)
def test_a_disk_that_fails_is_said_so_and_leaves_nothing(tmp_path: Path, fault: Exception) -> None:
    disk = Disk()
    journal = Journal(tmp_path, disk.sync, pause=0.0)
    journal.submit({"kind": "n", "n": 1}).result(10)
    disk.fault = fault
    with pytest.raises(NotWrittenError):
        journal.submit({"kind": "n", "n": 2}).result(10)
    assert journal.alive
    disk.fault = None
    journal.submit({"kind": "n", "n": 3}).result(10)
    journal.close()
    assert [event["n"] for event in _events(tmp_path)] == [1, 3]


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A file that may not grow takes part of the line, as a disk that is full does."""
    journal = Journal(tmp_path, pause=0.0)
    journal.submit({"kind": "n", "n": 1}).result(10)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, limits[1]))
    try:
        with pytest.raises(NotWrittenError):
            journal.submit({"kind": "n", "n": 2, "text": "x" * 100}).result(10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    journal.submit({"kind": "n", "n": 3}).result(10)
    journal.close()
    assert [event["n"] for event in _events(tmp_path)] == [1, 3]


def test_a_disk_that_stays_full_is_left_alone_and_gets_no_file_a_try(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk, tries = Disk(), []
    disk.fault = OSError(errno.ENOSPC, "full")

    def sync(descriptor: int) -> None:
        tries.append(descriptor)
        disk.sync(descriptor)

    journal = Journal(tmp_path, sync, pause=0.2)
    refused, began = 0, time.monotonic()
    while time.monotonic() - began < 1.0 or refused <= 20:
        with pytest.raises(NotWrittenError, match="No space left"):
            journal.submit({"kind": "n"}).result(10)
        refused += 1
        assert len(list(tmp_path.glob("*.jsonl"))) == 1
    seconds = time.monotonic() - began
    assert len(tries) <= 2 + seconds / 0.2, "the disk is asked now and then: twice at first, for the line and its cut"
    assert sum("cannot be written" in each.message for each in caplog.records) == 1
    journal.close()
    assert not list(tmp_path.glob("*.jsonl")), "nothing was acknowledged"


def test_empty_files_of_a_disk_that_was_full_go_at_the_next_start(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"2026-01-01T00000{number}.000000-0000000{number}.jsonl").touch()
    assert not _events(tmp_path)
    assert not list(tmp_path.glob("*.jsonl"))


def test_what_was_refused_does_not_come_back_after_what_was_acknowledged_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it cannot be cut off at once: nothing is acknowledged behind it."""
    disk = Disk()
    journal = Journal(tmp_path, disk.sync, pause=0.0)
    journal.submit({"kind": "n", "n": 1}).result(10)
    disk.fault = OSError(errno.EIO, "broken")
    with monkeypatch.context() as broken:
        broken.setattr(os, "ftruncate", _fail)
        for _ in range(2):
            with pytest.raises(NotWrittenError):
                journal.submit({"kind": "n", "n": 2}).result(10)
        disk.fault = None
        with pytest.raises(NotWrittenError):
            journal.submit({"kind": "n", "n": 3}).result(10)
    journal.submit({"kind": "n", "n": 4}).result(10)
    journal.close()
    assert [event["n"] for event in _events(tmp_path)] == [1, 4]


def test_a_cut_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, done = Disk(), list[str]()
    monkeypatch.setattr(os, "ftruncate", lambda descriptor, length: done.append("cut"))
    journal = Journal(tmp_path, lambda descriptor: (done.append("sync"), disk.sync(descriptor))[1], pause=0.0)
    disk.fault = OSError(errno.EIO, "broken")
    with pytest.raises(NotWrittenError):
        journal.submit({"kind": "n"}).result(10)
    journal.close()
    assert done[:3] == ["sync", "cut", "sync"]


def _fail(*_: Any) -> None:
    raise OSError(errno.EIO, "broken")


def test_a_clock_that_is_set_back_between_starts_changes_no_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of earlier releases, named by the time, come first."""
    old = _filled(tmp_path, range(2))
    old.rename(tmp_path / "2026-11-29T201600.000000-0a0b0c0d.jsonl")
    for start, hour in enumerate((23, 22, 21), 1):

        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return datetime(2026, 11, 29, hour, tzinfo=tz)  # noqa: B023  # read within this pass of the loop

        monkeypatch.setattr("deployments.game.durability.journal.datetime", Clock, raising=False)
        _filled(tmp_path, range(2 * start, 2 * start + 2))
    assert [event["n"] for event in _events(tmp_path)] == list(range(8))


def test_a_rewritten_journal_stands_for_all_before_it(tmp_path: Path) -> None:
    for start in range(3):
        _filled(tmp_path, range(10 * start, 10 * start + 10))
    journal = Journal(tmp_path)
    assert journal.size() > 0
    journal.rewrite(event for event in journal.events() if event["n"] % 2)
    assert journal.size() == 0 and len(list(tmp_path.glob("*.jsonl"))) == 1
    journal.submit({"kind": "n", "n": 99}).result(10)
    journal.close()
    assert [event["n"] for event in _events(tmp_path)] == [*range(1, 30, 2), 99]


def test_a_server_killed_while_it_rewrites_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _filled(tmp_path, range(10))
    for dies in ("rename", "_drop_replaced"):
        journal = Journal(tmp_path)
        with monkeypatch.context() as killed:
            killed.setattr(Path if dies == "rename" else Journal, dies, _fail)
            with pytest.raises(OSError, match="broken"):
                journal.rewrite(list(journal.events()))
        journal.close()
        assert [event["n"] for event in _events(tmp_path)] == list(range(10))
    assert len(list(tmp_path.glob("*.jsonl"))) == 1


def test_two_servers_cannot_write_one_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(JournalInUseError, match="stop it first"):
        Journal(tmp_path)
    journal.close()
    Journal(tmp_path).close()
