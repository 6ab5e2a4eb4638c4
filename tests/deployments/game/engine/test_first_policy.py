"""The seed policy that is trained beside the game, on a clean clone."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from forked import Forked
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
    with (tmp_path / "log").open("w") as log:
        game = Forked([sys.executable, "-c", _GAME], cwd=tmp_path, env=environment, stderr=log)
    try:
        assert game.stdout.readline() == "begun\n", (tmp_path / "log").read_text()
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
