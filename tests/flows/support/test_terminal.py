"""The Prefect server that a command starts: whom it answers, and that it ends when the command is told to."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import psutil
import pytest
import strangers
from commands import command, flow_runs

# A command of `respect` in the middle of a flow, with the Prefect server that it started: one task waits for a worker
# that does nothing, and one for its next try.
_BUSY = """
from contextlib import nullcontext
from pathlib import Path
from deployments.cli import main as cli
from flows.support.terminal import run_workspace, running

@cli.app.command()
def busy():
    place = run_workspace("main", new=True)
    from prefect import flow, task
    from prefect.context import get_run_context
    from pydantic import BaseModel
    from flows.support.threads import threads
    from tasks.compute import process
    from tasks.support import retries

    Path("nothing.py").write_text("import time; time.sleep(600)")
    process._command = lambda processes: ["-m", "nothing"]
    process._share, process.parallel_workers = lambda *_: nullcontext({}), lambda: 1
    retries.DELAYS[:] = [600]

    class Nothing(BaseModel):
        pass

    @task(**retries.PATIENT)
    def work():
        process.run(Nothing(), place.root, lambda *_: None)

    @task(**retries.PATIENT)
    def fail():
        raise OSError("the store is away")

    @flow(task_runner=threads())
    def wait():
        print("server", str(get_run_context().client.api_url).rstrip("/"), flush=True)
        futures = [work.submit(), fail.submit()]
        futures[0].result()

    with running():
        wait()

cli.app(["busy"])
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_ends_at_once_with_its_workers_its_server_and_its_runs(
    tmp_path: Path, number: signal.Signals
) -> None:
    with command(tmp_path, _BUSY) as started:
        started.wait_until(lambda: "another try in 600 seconds" in started.told)
        started.wait_until(lambda: any("nothing" in line for line in started.processes().values()))
        server = next(line.split()[1] for line in started.told.splitlines() if line.startswith("server "))
        assert httpx.get(f"{server}/health", timeout=60).json() is True
        ports = strangers.listening(psutil.Process(started.pid))
        assert httpx.URL(server).port in ports
        assert not [found for port in ports for found in strangers.let_in(port, tmp_path / "theirs")]
        started.interrupt(number)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server}/health")
    assert flow_runs(tmp_path / "runs" / "main") == {"wait": ["CRASHED"]}
