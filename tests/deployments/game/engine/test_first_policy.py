"""The seed policy that is trained beside the game, on a clean clone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from game_servers import until
from paths import REPOSITORY

pytestmark = pytest.mark.timeout(600)

_GAME = """
import time
from flows.support.terminal import run_workspace

place = run_workspace("main", new=True)
from deployments.game.engine import first_policy

first_policy.provide(place, "main")
print("begun", flush=True)
time.sleep(600)
"""


def test_a_training_ends_with_the_game_and_leaves_nobody(tmp_path: Path) -> None:
    """However the game ends."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment["PYTHONPATH"] = str(REPOSITORY)
    game = subprocess.Popen(
        [sys.executable, "-c", _GAME], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert game.stdout is not None and game.stdout.readline() == "begun\n"
        until(lambda: len(_inside(tmp_path) - {game.pid}) >= 2)  # the training and its Prefect server
    finally:
        game.kill()
        game.wait()
    until(lambda: not _inside(tmp_path))


def _inside(folder: Path) -> set[int]:
    """Processes at work in a folder."""
    found = set()
    for each in Path("/proc").glob("[0-9]*"):
        try:
            if (each / "cwd").readlink() == folder.resolve():
                found.add(int(each.name))
        except OSError:  # gone, or somebody else's
            continue
    return found
