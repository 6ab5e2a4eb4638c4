"""Rounds of one run, one after the other."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flows import round as round_module
from tasks.workspace import workspace

_HOLDS = """
import sys, time
from pathlib import Path
from tasks.files import alone

with alone(Path(sys.argv[1])):
    print("inside", flush=True)
    time.sleep(600)
"""


def test_a_round_waits_for_another_of_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place, begun = workspace(tmp_path), threading.Event()
    monkeypatch.setattr(round_module, "_round", lambda *_: begun.set())
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDS, str(place.scratch / "round.lock")], stdout=subprocess.PIPE, text=True
    )
    round = round_module.round.fn
    second = threading.Thread(target=round, args=(place, round_module.RoundParameters(round=1)))
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "inside\n"
        round(workspace(tmp_path / "other"), round_module.RoundParameters(round=1))
        assert begun.is_set()  # another run's does not wait
        begun.clear()
        second.start()
        assert not begun.wait(0.5)
    finally:
        holder.kill()
    assert begun.wait(30)
    second.join()
    holder.wait()
    assert f"another round of {place.root} is under way" in caplog.text
