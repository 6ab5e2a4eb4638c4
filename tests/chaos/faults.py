"""Accidents drawn from a seed: processes of the stack are killed, paused, stopped or denied the disk, and come back."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from paths import REPOSITORY
from running import RunningStack, supervised

PROGRAMS = ("prefect", "mlflow", "s3", "light", "gpu", "gateway", "game")
RUN = "a flow run"
"""One of the processes that work on a flow run: it or what it started."""
KINDS = {"kill": 4, "pause": 3, "full disk": 2, "stop": 1}
"""How often each is drawn."""
WRITERS = ("prefect", "mlflow", "s3", "gateway", "game", RUN)
"""What a full disk hurts. The workers keep nothing themselves."""


@dataclass(frozen=True)
class Fault:
    """What happens to what, how long after the one before it began, and for how long."""

    after: float
    kind: str
    target: str
    seconds: float


def drawn(seed: int) -> Iterator[Fault]:
    """The same faults in the same order for a seed."""
    chance = random.Random(seed)
    while True:
        (kind,) = chance.choices(list(KINDS), list(KINDS.values()))
        targets = {"full disk": WRITERS, "stop": PROGRAMS}.get(kind, (*PROGRAMS, RUN, RUN))
        seconds = 0.0 if kind == "kill" else chance.uniform(2.0, 45.0)
        yield Fault(chance.uniform(5.0, 30.0), kind, chance.choice(targets), seconds)


class Game:
    """The game server, which is started again when it has ended, as supervisord does with the others."""

    def __init__(self, folder: Path, port: int, environment: dict[str, str]) -> None:
        self.port = port
        self._folder, self._environment = folder, environment
        self._wanted = threading.Event()
        self._ended = threading.Event()
        self.process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep)

    def _keep(self) -> None:
        while not self._ended.wait(0.5):
            if self._wanted.is_set() and (self.process is None or self.process.poll() is not None):
                self._start()

    def _start(self) -> None:
        self._folder.mkdir(exist_ok=True)
        with (self._folder / "game.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "chaos.game", str(self._folder), str(self.port)],
                cwd=REPOSITORY,
                env=os.environ | self._environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def start(self) -> None:
        self._wanted.set()
        if not self._thread.is_alive():
            self._thread.start()

    def stop(self) -> None:
        """As an operator does: it stores what is over, and ends."""
        self._wanted.clear()
        if self.process is not None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(90)
                return
            self.process.kill()
            self.process.wait()

    def has_stored_all(self) -> bool:
        """Whether it answers, no game runs, and the store has those that did."""
        try:
            lines = httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=30).text.splitlines()
        except httpx.HTTPError:
            return False
        return {f'respect_game_now{{of="{of}"}} 0.0' for of in ("games", "unstored", "set_aside")} <= set(lines)

    def end(self) -> None:
        self.stop()
        self._ended.set()
        self._thread.join()


@dataclass
class Faults:
    """Inflicts faults, and undoes all of them in the end."""

    stack: RunningStack
    game: Game
    seed: int
    say: Callable[[str], None]
    done: list[tuple[float, Fault]] = field(default_factory=list)
    missed: int = 0

    def run(self, seconds: float) -> None:
        """Inflict faults until the time is over, and return when nothing suffers from one any more."""
        end, chance = time.monotonic() + seconds, random.Random(self.seed)
        threads = []
        for fault in drawn(self.seed):
            if time.monotonic() + fault.after > end:
                break
            time.sleep(fault.after)
            threads.append(threading.Thread(target=self._inflict, args=(fault, chance.random())))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _inflict(self, fault: Fault, which: float) -> None:
        found = self._processes(fault.target, which)
        what = f"{fault.kind}: {fault.target}" + (f" for {fault.seconds:.0f} s" if fault.seconds else "")
        if not found:
            self.missed += 1
            return self.say(f"{what}: nothing to hurt")
        self.done.append((time.time(), fault))
        self.say(f"{what} {found}")
        if fault.kind == "kill":
            _signal(found, signal.SIGKILL)
        elif fault.kind == "stop":
            self._stop(fault)
        else:
            with _paused(found) if fault.kind == "pause" else _without_disk(found):
                time.sleep(fault.seconds)
            if (fault.kind, fault.target) == ("full disk", "s3"):
                self.stack.control("restart", supervised("s3"))  # it refuses writes until then (docs/failures.md)

    def _stop(self, fault: Fault) -> None:
        if fault.target == "game":
            self.game.stop()
        else:
            self.stack.control("stop", supervised(fault.target))
        time.sleep(fault.seconds)
        if fault.target == "game":
            self.game.start()
        else:
            self.stack.control("start", supervised(fault.target))

    def _processes(self, target: str, which: float) -> list[int]:
        if target == "game":
            process = self.game.process
            return [] if process is None or process.poll() is not None else [process.pid]
        if target == RUN:
            of_runs = sorted(self.stack.processes_of_runs())
            return [of_runs[int(which * len(of_runs))]] if of_runs else []
        text = self.stack.control("pid", supervised(target))
        return [int(text)] if text.isdigit() and text != "0" else []


@contextmanager
def _paused(processes: list[int]) -> Iterator[None]:
    """They do nothing, and keep what they hold."""
    _signal(processes, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(processes, signal.SIGCONT)


@contextmanager
def _without_disk(processes: list[int]) -> Iterator[None]:
    """As on a full disk: the system refuses each write to a file (tests/flows/test_store_away.py)."""
    before: dict[int, Any] = {}
    for process in processes:
        with suppress(OSError):
            before[process] = resource.prlimit(process, resource.RLIMIT_FSIZE)
            resource.prlimit(process, resource.RLIMIT_FSIZE, (0, before[process][1]))
    try:
        yield
    finally:
        for process, limits in before.items():
            with suppress(OSError):  # it has ended
                resource.prlimit(process, resource.RLIMIT_FSIZE, limits)


def _signal(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)
