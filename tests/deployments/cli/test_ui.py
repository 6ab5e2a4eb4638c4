"""The pages on what a run left."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import strangers
from paths import REPOSITORY
from typer.testing import CliRunner

from deployments.cli import main
from deployments.cli.ui import pages
from flows.support import servers


def test_one_page_or_both() -> None:
    assert [page.address for page in pages(None, 1, 2)] == ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    assert [page.name for page in pages("mlflow", 1, 2)] == ["mlflow"]
    refused = CliRunner().invoke(main.app, ["ui", "--only", "grafana"])
    assert refused.exit_code == 2
    assert "'prefect', 'mlflow'" in " ".join(refused.output.replace("│", " ").split())


_LIGHT = r"""
import sys
from pathlib import Path
from rich.console import Console
from deployments.cli import ui
from tasks.support.workspace import workspace

port = sys.argv[1]
address = f"http://127.0.0.1:{port}"
server = [sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1"]
wait = "import os, sys, time\nwhile not os.path.exists('go'): time.sleep(0.02)\nos.execv(sys.argv[1], sys.argv[1:])"
command = [sys.executable, "-c", wait, *server]
ui.pages = lambda *_: [ui.Page("a page", address, address, command)]
ui.serve(workspace(Path("runs/r")), None, 0, 0, Console())
"""


class _Pages:
    """The command, its output, and where its page is once it says so."""

    def __init__(self, command: list[str], folder: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.log = folder / "runs/r/work/ui.log"

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text() if self.log.exists() else ""
        return line


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., _Pages]]:
    started: list[_Pages] = []

    def start(*command: str) -> _Pages:
        started.append(_Pages(list(command), tmp_path))
        return started[-1]

    yield start
    for each in started:
        with suppress(ProcessLookupError):
            os.killpg(each.process.pid, signal.SIGKILL)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_address_is_printed_when_it_answers_and_its_server_ends_with_the_command(
    start: Callable[..., _Pages], free_port: int, ending: signal.Signals, tmp_path: Path
) -> None:
    address = f"http://127.0.0.1:{free_port}"
    pages = start("-c", _LIGHT, str(free_port))
    assert "starting a page, which takes up to a minute" in pages.line()
    with pytest.raises(OSError):
        urllib.request.urlopen(address, timeout=5)
    (tmp_path / "go").touch()
    assert address in pages.line()
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert answer.status == 200
    pages.process.send_signal(ending)
    assert pages.process.wait(timeout=60) == 0
    with pytest.raises(OSError):
        urllib.request.urlopen(address, timeout=5)


def test_mlflow_answers_who_has_the_password_and_nobody_else(
    start: Callable[..., _Pages], free_port: int, tmp_path: Path
) -> None:
    (tmp_path / "runs/r").mkdir(parents=True)
    pages = start("-m", "deployments.cli.main", "ui", "--run", "r", "--only", "mlflow", "--mlflow-port", str(free_port))
    assert "starting mlflow" in pages.line()
    assert f"http://127.0.0.1:{free_port}" in pages.line()
    file = tmp_path / "runs/r/password"
    password = file.read_text()
    assert f"user respect, password {password}" in pages.line() and stat.S_IMODE(file.stat().st_mode) == 0o600
    experiments = f"http://127.0.0.1:{free_port}/api/2.0/mlflow/experiments/search?max_results=9"
    assert servers.answers(experiments, password) and not servers.answers(experiments, "guessed")
    process = psutil.Process(pages.process.pid)
    found = [found for port in strangers.listening(process) for found in strangers.let_in(port, tmp_path / "theirs")]
    assert not found
    words = " ".join(word for each in process.children(recursive=True) for word in each.cmdline())
    assert "mlflow" in words and password not in words and "mlflow.db" not in words
