"""One process at a time, and folders that do not stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks.support.files import alone, passing

_HOLDS = """
import sys, time
from pathlib import Path
from tasks.support.files import alone

with alone(Path(sys.argv[1])):
    print("inside", flush=True)
    time.sleep(600)
"""


def test_who_is_killed_inside_lets_the_next_in(tmp_path: Path) -> None:
    file, entered, waits = tmp_path / "work" / "lock", threading.Event(), threading.Event()
    holder = subprocess.Popen([sys.executable, "-c", _HOLDS, str(file)], stdout=subprocess.PIPE, text=True)

    def enter() -> None:
        with alone(file, waits.set):
            entered.set()

    try:
        assert holder.stdout is not None and holder.stdout.readline() == "inside\n"
        waiting = threading.Thread(target=enter)
        waiting.start()
        assert waits.wait(30) and not entered.wait(0.5)
    finally:
        holder.kill()
    assert entered.wait(30)
    waiting.join()
    holder.wait()


_WAITS = """
import signal, sys
from pathlib import Path
from tasks.support.files import alone, passing

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a script starts in its background
with alone(Path(sys.argv[1]), lambda: print("waits", flush=True)):
    print("inside", flush=True)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_who_waits_can_be_cancelled(tmp_path: Path, sent: signal.Signals) -> None:
    file = tmp_path / "lock"
    with alone(file):
        waiting = subprocess.Popen(
            [sys.executable, "-c", _WAITS, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert waiting.stdout is not None and waiting.stdout.readline() == "waits\n"
        waiting.send_signal(sent)
        assert waiting.communicate(timeout=60)[0] == ""
    assert waiting.returncode != 0


def test_what_killed_processes_left_goes_after_a_day(tmp_path: Path) -> None:
    old, new, other = (tmp_path / name for name in ("registering-1", "registering-2", "round=0"))
    for folder in (old, new, other):
        folder.mkdir()
        (folder / "file").touch()
    for folder in (old, other):
        os.utime(folder, (0, 0))
    with passing(tmp_path, "registering-") as made:
        assert made.parent == tmp_path and made.is_dir()
        assert not old.exists() and new.exists() and other.exists()
    assert not made.exists()
