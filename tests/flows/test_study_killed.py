"""The command `respect study`, killed in the middle of a round and given again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent

# The command itself, on the smallest profile.
_RESPECT = """
import sys
from pathlib import Path
from deployments.cli import main as cli
from flows.support import environment

environment.prepare(cli.RUNS / sys.argv[sys.argv.index("--run") + 1])
from flows import parameters
from small import smallest

parameters.named_profile = smallest
cli.app()
"""


def _study(folder: Path, run: str) -> subprocess.Popen[bytes]:
    """The command, started as the head of a process group of its own."""
    options = ["--rounds", "1", "--games", "10", "--human-games", "4", "--study-seed", "3"]
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.Popen(
        [sys.executable, "-c", _RESPECT, "study", "--run", run, *options],
        cwd=folder,
        env=environment | {"PYTHONPATH": path},
        stdout=(folder / f"{run}.log").open("ab"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    """As when the machine goes down: the command, its Prefect server and its workers at once."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)


def _figures(folder: Path, run: str) -> Any:
    """The rounds of a summary, without what depends on the clock and on interruptions."""
    return _timeless(json.loads((folder / "runs" / run / "summary.json").read_text())["rounds"])


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        skipped = ("seconds", "turns_per_second", "resumed")
        return {name: _timeless(each) for name, each in value.items() if name not in skipped}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_in_the_middle_of_a_round_it_ends_with_the_same_figures(tmp_path: Path) -> None:
    undisturbed = _study(tmp_path, "undisturbed")
    assert undisturbed.wait() == 0, (tmp_path / "undisturbed.log").read_text()[-2000:]

    killed = _study(tmp_path, "killed")
    training = tmp_path / "runs/killed/work/round=0/b-fft/seed=3"
    while not (training / "worker.log").exists():  # games are played and decoded, the variant is being trained
        assert killed.poll() is None, (tmp_path / "killed.log").read_text()[-2000:]
        time.sleep(0.02)
    _kill(killed)
    assert not (training / "result.json").exists()
    assert not list((tmp_path / "runs/killed/study").glob("round-*.json"))

    again = _study(tmp_path, "killed")
    assert again.wait() == 0, (tmp_path / "killed.log").read_text()[-2000:]
    assert _figures(tmp_path, "killed") == _figures(tmp_path, "undisturbed")
