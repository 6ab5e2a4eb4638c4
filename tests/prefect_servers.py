"""A Prefect server for tests, as the commands start theirs, on a database of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL, temporary_settings
from prefect.testing import utilities

from flows.support.temporary import TemporaryServer


@contextmanager
def prefect_for_tests(database: str | None = None) -> Iterator[None]:
    """Run the server while the context lasts, on SQLite or another empty database."""

    class Server(TemporaryServer):
        def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
            own = {} if database is None else {PREFECT_SERVER_DATABASE_CONNECTION_URL: database}
            with temporary_settings(updates=own):
                return super()._run_uvicorn_command()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utilities, "SubprocessASGIServer", Server)
        with utilities.prefect_test_harness(server_startup_timeout=180):
            yield
