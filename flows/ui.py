"""The Prefect and MLflow pages on what a run left: two local servers, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from rich.console import Console

from tasks.workspace import Workspace


def commands(workspace: Workspace, only: str | None, prefect_port: int, mlflow_port: int) -> dict[str, list[str]]:
    """What to run for each page, by its address.

    Raises:
        ValueError: `only` names neither.
    """
    here = ["--host", "127.0.0.1", "--port"]
    tracking = ["--backend-store-uri", workspace.tracking_uri, "--workers", "1"]
    pages = {
        "prefect": (prefect_port, ["prefect", "server", "start", *here, str(prefect_port)]),
        "mlflow": (mlflow_port, ["mlflow", "server", *tracking, *here, str(mlflow_port)]),
    }
    if only is not None and only not in pages:
        raise ValueError(f"--only {only!r}: name 'prefect' or 'mlflow'")
    return {
        f"{name} http://127.0.0.1:{port}": [sys.executable, "-m", *command]
        for name, (port, command) in pages.items()
        if only in (None, name)
    }


def serve(workspace: Workspace, only: str | None, prefect_port: int, mlflow_port: int, console: Console) -> None:
    """Start the servers, say where they are, and wait. Ends all when one ends, on Ctrl-C and on SIGTERM."""
    pages = commands(workspace, only, prefect_port, mlflow_port)
    for ending in (signal.SIGTERM, signal.SIGINT):  # the latter is ignored by what a script starts in its background
        signal.signal(ending, _interrupt)  # else the servers would outlive this command
    log = workspace.scratch / "ui.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        environment = {
            **os.environ,
            "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{prefect_port}/api",  # the page would ask port 4200
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # four more processes that pages do not need
        }
        servers = [
            subprocess.Popen(command, stdout=output, stderr=output, env=environment) for command in pages.values()
        ]
        try:
            for address in pages:
                console.print(address, highlight=False)
            console.print(f"Ctrl-C ends them; their log is {log}", highlight=False)
            while all(server.poll() is None for server in servers):
                time.sleep(0.5)
            console.print(f"[red]a server ended; see {log}[/]", highlight=False)
        except KeyboardInterrupt:
            pass
        finally:
            for server in servers:
                server.terminate()
            for server in servers:
                server.wait(timeout=30)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
