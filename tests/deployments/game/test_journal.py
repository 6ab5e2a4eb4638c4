"""The journal: what was acknowledged is there, whatever happens to the last line, the disk, or the process."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from deployments.game.journal import InUse, Journal, NotWritten


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


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_is_said_so_and_leaves_nothing(tmp_path: Path, fault: int) -> None:
    failing = False

    def sync(descriptor: int) -> None:
        if failing:
            raise OSError(fault, os.strerror(fault))
        os.fsync(descriptor)

    async def write() -> None:
        nonlocal failing
        await journal.write({"kind": "n", "n": 1})
        failing = True
        with pytest.raises(NotWritten):
            await journal.write({"kind": "n", "n": 2})
        failing = False
        await journal.write({"kind": "n", "n": 3})

    journal = Journal(tmp_path, sync)
    asyncio.run(write())
    journal.close()
    assert [event["n"] for event in _events(tmp_path)] == [1, 3]


def test_a_disk_that_is_really_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full takes no byte."""
    journal = Journal(tmp_path)
    monkeypatch.setattr(Path, "open", lambda path, *_args, **_named: io.FileIO("/dev/full", "w"))
    with pytest.raises(NotWritten):
        asyncio.run(journal.write({"kind": "n"}))
    monkeypatch.undo()
    asyncio.run(journal.write({"kind": "n", "n": 1}))
    journal.close()
    assert [event["n"] for event in _events(tmp_path)] == [1]


def test_two_servers_cannot_write_one_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(InUse, match="stop it first"):
        Journal(tmp_path)
    journal.close()
    Journal(tmp_path).close()
