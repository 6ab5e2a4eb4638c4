"""A schedule makes runs: versions of Prefect's server and of its database library that go together."""

from __future__ import annotations

from datetime import timedelta

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import IntervalSchedule


@flow
def scheduled() -> None:
    """Never run."""


def test_a_deployment_with_a_schedule_gets_runs(prefect_server: None) -> None:
    every_day = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(days=1)), active=True)
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(scheduled)
        deployment = client.create_deployment(flow_id=flow_id, name="daily", schedules=[every_day])
        client.request(
            "POST", "/deployments/{id}/schedule", path_params={"id": deployment}, json={"min_runs": 2}
        ).raise_for_status()
        runs = client.read_flow_runs()
    assert [run for run in runs if run.deployment_id == deployment and run.auto_scheduled]
