"""Answer a run that waits for a person, as the form of its page does."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.responses import SetStateStatus

SECONDS = 60


def answer(client: SyncPrefectClient, run: UUID, given: dict[str, Any]) -> None:
    """Resume the run. It waits a moment before the server has its question, and until then takes no answer."""
    deadline = time.monotonic() + SECONDS
    while True:
        response = client.resume_flow_run(run, run_input=given)
        if response.status == SetStateStatus.ACCEPT:
            return
        assert "schema not found" in (response.details.reason or ""), response
        assert time.monotonic() < deadline, response
        time.sleep(0.1)
