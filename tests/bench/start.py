"""What waits for a start: a worker of a round, and who asks the command line for help."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from tasks.compute import forks
from tests.bench.record import Record, case, compare

HELP = [sys.executable, "-m", "deployments.cli.main", "round", "--help"]
COMMAND = ["-m", "tests.bench.start"]


def _forked() -> None:
    with Path(os.devnull).open("w") as log:
        worker = forks.start(COMMAND, log=log, env=os.environ)
    assert worker.wait() == 0


def _new() -> None:
    subprocess.run([sys.executable, *COMMAND], check=True)


def _help() -> None:
    subprocess.run(HELP, check=True, stdout=subprocess.DEVNULL)


@case("start")
def start(quick: bool) -> Iterator[Record]:
    """Both sides of a worker import what workers import, and do nothing."""
    began = time.perf_counter()
    _forked()
    first = (
        f"both have imported the same; the first, which waits for the fork server, {time.perf_counter() - began:.1f} s"
    )
    repeats = 1 if quick else 5
    yield compare(
        "start",
        "worker",
        None,
        ours=_forked,
        peer=_new,
        work=1,
        unit="starts/s",
        peer_name="a new interpreter",
        bar=4,
        equality=first,
        repeats=repeats,
        warm_up=not quick,
    )
    yield compare(
        "start",
        "help",
        None,
        ours=_help,
        peer=lambda: time.sleep(0.5),
        work=1,
        unit="starts/s",
        peer_name="the bar: 0.5 s",
        bar=1,
        equality="`respect round --help`",
        repeats=repeats,
    )
    forks.stop()


if __name__ == "__main__":
    for module in forks.PRELOADED:
        import_module(module)
