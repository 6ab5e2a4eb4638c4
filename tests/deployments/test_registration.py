"""What the Prefect server is told, on a real one with a new database. tests/stack deploys what is here only counted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.testing.utilities import prefect_test_harness

from deployments import registration
from deployments.settings import GPU, LIGHT, LIGHT_RUNS

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with prefect_test_harness(server_startup_timeout=180), get_client(sync_client=True) as found:
        yield found


def test_what_is_registered_is_left_alone_until_something_of_it_changes(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed: list[None] = []

    def fail() -> None:
        raise ValueError("prefect.yaml was not deployed")

    monkeypatch.setattr(registration, "_deploy", fail)
    with pytest.raises(ValueError, match="was not deployed"):
        registration.register(devices=2)
    monkeypatch.setattr(registration, "_deploy", lambda: deployed.append(None))
    registration.register(devices=2)
    assert len(deployed) == 1, "what was not deployed is deployed the next time"
    assert _limits(client) == {LIGHT: LIGHT_RUNS, GPU: 2}

    client.update_work_pool(LIGHT, WorkPoolUpdate(concurrency_limit=3))  # as somebody does in the UI
    registration.register(devices=2)
    assert len(deployed) == 1 and _limits(client) == {LIGHT: 3, GPU: 2}

    registration.register(devices=4)  # there are more devices
    assert len(deployed) == 2 and _limits(client) == {LIGHT: LIGHT_RUNS, GPU: 4}
    assert len(client.read_automations_by_name(registration.SILENT)) == 1


def _limits(client: SyncPrefectClient) -> dict[str, int | None]:
    return {name: client.read_work_pool(name).concurrency_limit for name in (LIGHT, GPU)}
