"""An MLflow server of its own, for tests of what happens while it is away."""

from __future__ import annotations

import os
import signal
import sys
import time
import urllib.request
from pathlib import Path

from forked import Forked
from mlflow import MlflowClient


class MlflowServer:
    """A server that may be killed, and started on what it kept: artifacts in a folder, the rest in SQLite there."""

    def __init__(self, folder: Path, port: int, database: str = "") -> None:
        self._process: Forked | None = None
        self.folder, self.uri = folder, f"http://127.0.0.1:{port}"
        # What `mlflow server` starts, which imports MLflow a second time.
        self._command = [sys.executable, "-m", "uvicorn", "mlflow.server.fastapi_app:app"]
        self._command += ["--port", str(port), "--log-level", "warning"]
        self._database = database or f"sqlite:///{folder / 'mlflow.db'}"
        self._settings = {
            "_MLFLOW_SERVER_FILE_STORE": self._database,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def start(self) -> None:
        MlflowClient(self._database)  # makes its tables, more quickly than the server (conftest.py)
        with (self.folder / "server.log").open("ab") as log:
            self._process = Forked(self._command, env=os.environ | self._settings, stderr=log)
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
                time.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def hang(self) -> None:
        """Until `go_on`."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "it was not started"
        self._process.send_signal(number)
