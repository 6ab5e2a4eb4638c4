"""A Prefect server for tests, as the commands start theirs, on a database of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prefect.testing import utilities

from flows.support.temporary import TemporaryServer


@contextmanager
def prefect_for_tests() -> Iterator[None]:
    """Run the server while the context lasts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utilities, "SubprocessASGIServer", TemporaryServer)
        with utilities.prefect_test_harness(server_startup_timeout=180):
            yield
