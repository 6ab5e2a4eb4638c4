"""The short-lived server of the commands."""

from __future__ import annotations

import subprocess
import sys

from prefect.client.orchestration import get_client
from prefect.server.api.server import SubprocessASGIServer

from flows.support.database import Configuration
from flows.support.temporary import TemporaryServer

DATABASE = """
from flows.support.temporary import app
app()
from prefect.server.database import provide_database_interface
configuration = type(provide_database_interface().database_config)
print(configuration.__module__, configuration.__name__)
"""


def test_prefect_takes_the_server_that_is_there(prefect_server: None) -> None:
    server = SubprocessASGIServer()
    assert isinstance(server, TemporaryServer) and server.server_process is not None
    assert "flows.support.temporary:app" in server.server_process.args


def test_its_database_does_not_stall() -> None:
    """Configuration is what test_database.py holds to that."""
    said = subprocess.run([sys.executable, "-c", DATABASE], capture_output=True, text=True, check=True, timeout=120)
    assert said.stdout.split() == [Configuration.__module__, Configuration.__name__]


def test_it_registers_no_block_types(prefect_server: None) -> None:
    """No flow has use for them, and they cost time at its start."""
    with get_client(sync_client=True) as client:
        assert not client.request("POST", "/block_types/filter", json={}).json()
