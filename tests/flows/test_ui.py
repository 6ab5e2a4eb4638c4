"""The pages on what a run left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from flows.ui import commands
from tasks.workspace import workspace


def test_one_page_or_both(tmp_path: Path) -> None:
    place = workspace(tmp_path)
    assert list(commands(place, None, 1, 2)) == ["prefect http://127.0.0.1:1", "mlflow http://127.0.0.1:2"]
    assert list(commands(place, "mlflow", 1, 2)) == ["mlflow http://127.0.0.1:2"]
    with pytest.raises(ValueError, match="name 'prefect' or 'mlflow'"):
        commands(place, "grafana", 1, 2)


_LIGHT = """
import sys
from pathlib import Path
from rich.console import Console
from flows import ui
from tasks.workspace import workspace

ui.commands = lambda *_: {"a page": [sys.executable, "-m", "http.server", sys.argv[1], "--bind", "127.0.0.1"]}
ui.serve(workspace(Path("runs/r")), None, 0, 0, Console())
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_server_ends_with_the_command(tmp_path: Path, free_port: int, ending: signal.Signals) -> None:
    """A light one."""
    _answers_and_ends(["-c", _LIGHT, str(free_port)], tmp_path, f"http://127.0.0.1:{free_port}/", ending)


def test_mlflow_answers_and_ends_with_the_command(tmp_path: Path, free_port: int) -> None:
    (tmp_path / "runs/r").mkdir(parents=True)
    command = ["-m", "flows.cli", "ui", "--run", "r", "--only", "mlflow", "--mlflow-port", str(free_port)]
    _answers_and_ends(command, tmp_path, f"http://127.0.0.1:{free_port}/health", signal.SIGINT)


def _answers_and_ends(command: list[str], folder: Path, page: str, ending: signal.Signals) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    pages = subprocess.Popen([sys.executable, *command], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(page, timeout=5) as answer:
                    assert answer.status == 200
                break
            except OSError:
                log = folder / "runs/r/work/ui.log"
                assert pages.poll() is None and time.monotonic() < deadline, log.read_text() if log.exists() else ""
                time.sleep(0.1)
    finally:
        pages.send_signal(ending)
        assert pages.wait(timeout=150) == 0
    with pytest.raises(OSError):  # the server ended with it
        urllib.request.urlopen(page, timeout=5)
