"""Start Prefect's short-lived server with `flows.support.database`: Prefect's own stalls for a minute now and then."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import get_current_settings


class TemporaryServer(SubprocessASGIServer):
    """The server that Prefect starts where none is configured. Once there is one of these, Prefect takes it."""

    def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
        """Start it; what differs from Prefect's own is the application, and that it registers no block types."""
        own = {
            "PREFECT_UI_ENABLED": "0",
            "PREFECT__SERVER_EPHEMERAL": "1",
            "PREFECT__SERVER_FINAL": "1",
            "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",  # nothing here keeps a block
        }
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--log-level", "error", "--lifespan", "on"]
        command = [sys.executable, "-m", "uvicorn", "--factory", "flows.support.temporary:app", *options]
        return subprocess.Popen(command, env={**os.environ, **own, **settings})


def app() -> Any:
    """Make the server's application."""
    from prefect.server.api.server import create_app

    from flows.support import database

    database.configure()
    return create_app()
