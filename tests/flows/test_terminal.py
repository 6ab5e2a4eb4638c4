"""The Prefect server that a command starts: whom it answers, and that it ends when the command is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
import strangers

# A command of `respect` in the middle of a flow, with the Prefect server that it started.
_COMMAND = """
import time
from flows import cli
from flows.terminal import run_workspace

@cli.app.command()
def busy():
    run_workspace("main", new=True)
    from prefect import flow
    from prefect.context import get_run_context

    @flow
    def wait():
        print(str(get_run_context().client.api_url).rstrip("/"), flush=True)
        time.sleep(600)

    wait()

cli.app(["busy"])
"""


@pytest.mark.timeout(300)
def test_the_server_of_a_command_knows_no_strangers_and_ends_with_it_on_sigterm(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
    with (tmp_path / "log").open("w") as log:
        command = subprocess.Popen(
            [sys.executable, "-c", _COMMAND],
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    assert command.stdout is not None
    try:
        server = command.stdout.readline().strip()
        assert server, (tmp_path / "log").read_text()
        assert httpx.get(f"{server}/health").json() is True
        ports = strangers.listening(psutil.Process(command.pid))
        assert httpx.URL(server).port in ports
        assert not [found for port in ports for found in strangers.let_in(port, tmp_path / "theirs")]
        command.send_signal(signal.SIGTERM)
        assert command.wait(timeout=60) == 128 + signal.SIGTERM
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server}/health")
    finally:
        if command.poll() is None:
            os.killpg(command.pid, signal.SIGKILL)
