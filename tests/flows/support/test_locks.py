"""Demos, rounds and studies of one run, one after the other."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows import demo as demo_module
from flows import round as round_module
from flows import study as study_module
from flows.parameters import DemoParameters, RoundParameters, StudyParameters
from flows.support.locks import in_turn
from tasks.support.workspace import Workspace, workspace

_HOLDS = """
import sys, time
from pathlib import Path
from tasks.support.files import alone

with alone(Path(sys.argv[1])):
    print("inside", flush=True)
    time.sleep(600)
"""


class _Begun(Exception):
    pass


def _begin(*_: object) -> None:
    raise _Begun


@pytest.fixture
def held(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is at a demo, round or study of the run in `tmp_path`."""
    lock = workspace(tmp_path).scratch / "run.lock"
    holder = subprocess.Popen([sys.executable, "-c", _HOLDS, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "inside\n"
    yield holder
    holder.kill()
    holder.wait()


FLOWS: dict[str, Callable[[Workspace], object]] = {
    "demo": lambda place: demo_module.demo.fn(place, DemoParameters()),
    "round": lambda place: round_module.round.fn(place, RoundParameters(round=1)),
    "study": lambda place: study_module.study.fn(place, StudyParameters()),
}


@pytest.mark.parametrize("name", FLOWS)
def test_each_waits_for_whatever_learns_in_its_run(
    name: str,
    held: subprocess.Popen[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(demo_module, "seed_policy", _begin)
    monkeypatch.setattr(round_module, "seed_policy", _begin)
    monkeypatch.setattr(study_module.record, "start_or_resume", _begin)
    begin = FLOWS[name]
    with pytest.raises(_Begun):
        begin(workspace(tmp_path / "other"))  # another run's does not wait
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(begin, workspace(tmp_path))
        while "is under way" not in caplog.text and not waiting.done():
            time.sleep(0.02)
        assert not waiting.done()
        held.kill()
        with pytest.raises(_Begun):
            waiting.result(timeout=30)
    assert f"another demo, round or study of {tmp_path} is under way" in caplog.text


def test_a_flow_inside_has_the_turn_of_the_one_around_it_and_no_other_thread(tmp_path: Path) -> None:
    place, inside = workspace(tmp_path), threading.Event()

    def enter() -> None:
        with in_turn(place):
            inside.set()

    other = threading.Thread(target=enter)
    with in_turn(place):
        with in_turn(place):
            pass
        other.start()
        assert not inside.wait(0.5)
    assert inside.wait(30)
    other.join()
