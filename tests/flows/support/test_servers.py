"""What Prefect's server remembers when it is started again."""

from __future__ import annotations

import asyncio
import importlib
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from prefect.settings import PREFECT_HOME, temporary_settings

from flows.support import servers


def test_a_running_round_keeps_its_slot_when_the_server_is_started_again(tmp_path: Path) -> None:
    """A server that has forgotten it refuses the next renewal, upon which Prefect ends the round."""
    kept = importlib.import_module(servers.prefect_settings(4200)["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"])
    a_while = timedelta(minutes=5)
    with temporary_settings(updates={PREFECT_HOME: tmp_path}):
        lease = asyncio.run(kept.ConcurrencyLeaseStorage().create_lease([uuid4()], a_while))
        assert asyncio.run(kept.ConcurrencyLeaseStorage().renew_lease(lease.id, a_while))
    assert list(tmp_path.rglob(f"*{lease.id}*"))
