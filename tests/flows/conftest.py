"""One Prefect server for the tests of flows; its database goes to a folder of the session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect_servers import prefect_for_tests
from small import small

from flows import parameters as parameters_module
from respect_core.reporting import report


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    with prefect_for_tests():
        yield


@pytest.fixture(scope="module")
def small_profile() -> Iterator[None]:
    """Flows resolve the small profiles by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parameters_module, "named_profile", small)
        yield


@pytest.fixture(scope="module", autouse=True)
def no_figures() -> Iterator[None]:
    """Reports of rounds go without figures, which take seconds each time; test_report.py draws them.

    By module: what a session patches is patched in the tests of other folders too.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw", lambda *_: {})
        yield
