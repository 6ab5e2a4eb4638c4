"""One process at a time."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from tasks.files import alone

_HOLDS = """
import sys, time
from pathlib import Path
from tasks.files import alone

with alone(Path(sys.argv[1])):
    print("inside", flush=True)
    time.sleep(600)
"""


def test_who_is_killed_inside_lets_the_next_in(tmp_path: Path) -> None:
    file, entered = tmp_path / "work" / "lock", threading.Event()
    holder = subprocess.Popen([sys.executable, "-c", _HOLDS, str(file)], stdout=subprocess.PIPE, text=True)

    def enter() -> None:
        with alone(file):
            entered.set()

    try:
        assert holder.stdout is not None and holder.stdout.readline() == "inside\n"
        waiting = threading.Thread(target=enter)
        waiting.start()
        assert not entered.wait(0.5)
    finally:
        holder.kill()
    assert entered.wait(30)
    waiting.join()
    holder.wait()
