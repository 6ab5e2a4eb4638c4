"""Commands of `respect` as programs of their own, told to end as a shell, a service manager or a terminal does it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SECONDS = 60
"""Until nothing is left of a command that was told to end: 2 to 5 on two quiet cores."""


_AS_ON_A_TERMINAL = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""What a shell started in its background ignores SIGINT, and so does all that comes from there, as tests may."""


class Command:
    """A script in a session of its own, so that everything that it starts is found."""

    def __init__(self, folder: Path, script: str, *arguments: str) -> None:
        self._log = folder / "log"
        path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _AS_ON_A_TERMINAL + script, *arguments],
                cwd=folder,
                env=environment | {"PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def told(self) -> str:
        """What it has printed."""
        return self._log.read_text()

    def wait_until(self, ready: Any) -> None:
        """Return once `ready` says so of the running command."""
        while not ready():
            assert self._process.poll() is None, self.told[-3000:]
            time.sleep(0.02)

    def interrupt(self, number: signal.Signals) -> None:
        """SIGTERM to the command; SIGINT to every process of its terminal. Returns once nothing of it is left."""
        deadline = time.monotonic() + SECONDS
        (os.killpg if number is signal.SIGINT else os.kill)(self._process.pid, number)
        code = self._process.wait(timeout=SECONDS)
        assert code == 128 + number, self.told[-3000:]
        while left := self.processes():
            assert time.monotonic() < deadline, left
            time.sleep(0.05)

    def finish(self) -> None:
        assert self._process.wait() == 0, self.told[-3000:]

    def kill(self) -> None:
        for process in self.processes():
            os.kill(process, signal.SIGKILL)
        self._process.wait()

    def processes(self) -> dict[int, list[str]]:
        """Command lines of what lives of its session, by number."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == self._process.pid and state != "Z":
                    found[int(folder.name)] = (folder / "cmdline").read_text().rstrip("\0").split("\0")
            except (FileNotFoundError, ProcessLookupError):
                pass  # has ended since
        return found

    def workers(self) -> list[dict[str, Any]]:
        """Specifications of the workers that are at work."""
        lines = [line for line in self.processes().values() if "tasks.compute.worker" in line]
        return [json.loads(Path(line[-1]).read_text()) for line in lines]


@contextmanager
def command(folder: Path, script: str, *arguments: str) -> Iterator[Command]:
    """A running command, of which nothing is left afterwards."""
    started = Command(folder, script, *arguments)
    try:
        yield started
    finally:
        started.kill()


def flow_runs(run: Path) -> dict[str, list[str]]:
    """States of a run's flow runs in Prefect, by the flow's name, in the order in which they began."""
    query = "SELECT flow.name, state_type FROM flow_run JOIN flow ON flow.id = flow_id ORDER BY flow_run.created"
    return _grouped(run / "prefect" / "prefect.db", query)


def mlflow_runs(run: Path) -> dict[str, list[str]]:
    """Statuses of a run's runs in MLflow, by name, in the order in which they began."""
    return _grouped(run / "mlflow.db", "SELECT name, status FROM runs ORDER BY start_time")


def _grouped(file: Path, query: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    if file.exists():
        with closing(sqlite3.connect(file)) as database:
            for name, state in database.execute(query):
                found.setdefault(name, []).append(state)
    return found
