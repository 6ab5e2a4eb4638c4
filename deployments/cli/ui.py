"""Serve the Prefect and MLflow pages of a run's records: two local servers, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass

from rich.console import Console

from flows.support import servers
from tasks.support.workspace import Workspace


@dataclass(frozen=True)
class Page:
    """A server with pages: its address, what it answers once it is ready, and how to start it."""

    name: str
    address: str
    ready: str
    command: list[str]


def pages(only: str | None, prefect_port: int, mlflow_port: int) -> list[Page]:
    """Return the pages to start: that of one server, or of both."""
    prefect, mlflow = f"http://127.0.0.1:{prefect_port}", f"http://127.0.0.1:{mlflow_port}"
    both = [
        Page("prefect", prefect, f"{prefect}/api/admin/version", servers.prefect_command(prefect_port)),
        Page("mlflow", mlflow, f"{mlflow}/version", servers.mlflow_command(mlflow_port)),
    ]
    return [page for page in both if only in (None, page.name)]


def serve(workspace: Workspace, only: str | None, prefect_port: int, mlflow_port: int, console: Console) -> None:
    """Start the servers, say where they are once they answer, and wait until one ends, or for Ctrl-C or SIGTERM."""
    chosen = pages(only, prefect_port, mlflow_port)
    for ending in (signal.SIGTERM, signal.SIGINT):  # a script's background processes ignore SIGINT
        signal.signal(ending, _interrupt)  # or else the servers would outlive this command
    log = workspace.scratch / "ui.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    password = servers.password(workspace.root / "password")
    environment = {
        **os.environ,
        **servers.prefect_settings(prefect_port),
        **servers.mlflow_settings(workspace.tracking),
        **servers.prefect_login(password),
        **servers.mlflow_login(password),
    }
    with log.open("w") as output:
        started = [subprocess.Popen(page.command, stdout=output, stderr=output, env=environment) for page in chosen]
        try:
            names = " and ".join(page.name for page in chosen)
            console.print(f"starting {names}, which takes up to a minute", highlight=False)
            waiting = list(chosen)
            while all(server.poll() is None for server in started):
                for page in [page for page in waiting if servers.answers(page.ready, password)]:
                    console.print(f"{page.name:8} {page.address}", highlight=False)
                    waiting.remove(page)
                    if not waiting:
                        console.print(servers.how_to_log_in(password), highlight=False, soft_wrap=True)
                        console.print(f"Ctrl-C ends them; their log is {log}", highlight=False, soft_wrap=True)
                time.sleep(0.5)
            console.print(f"[red]a server ended; see {log}[/]", highlight=False)
        except KeyboardInterrupt:
            pass
        finally:
            for server in started:
                server.terminate()
            for server in started:
                server.wait(timeout=30)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
