"""What the Prefect server must know: work pools, the automation for runs that went silent, deployments."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.workers.process import ProcessWorker

from deployments.settings import GPU, LIGHT, LIGHT_RUNS, REPOSITORY, Stack
from respect_core.versions import code_version

SILENT = "Crash runs that went silent"
SILENCE = timedelta(seconds=300)
"""Runs send a heartbeat every 30 seconds; a machine that is very busy misses some."""

LOST = "No heartbeat: the process that ran it is gone."


def register(stack: Stack, devices: int) -> None:
    """Make what is absent; deploy prefect.yaml unless this version of it was.

    What was edited in the UI stays until the deployments or the code change.
    """
    with get_client(sync_client=True) as client:
        _work_pool(client, LIGHT, LIGHT_RUNS)
        _work_pool(client, GPU, devices)
        _automation(client)
    deploy(stack)


def deploy(stack: Stack) -> None:
    """Deploy deployments/prefect.yaml."""
    marker, version = stack.folder / "deployed", _version()
    if marker.exists() and marker.read_text() == version:
        return
    file = REPOSITORY / "deployments" / "prefect.yaml"
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    environment = {**os.environ, "RESPECT_CODE": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{file} was not deployed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    marker.write_text(version)


def workers_online(since: datetime) -> bool:
    """Whether each pool has a worker that has reported since then."""
    with get_client(sync_client=True) as client:
        answers = [
            client.request(
                "POST", "/work_pools/{work_pool_name}/workers/filter", path_params={"work_pool_name": pool}, json={}
            )
            for pool in (LIGHT, GPU)
        ]
    return all(
        any(datetime.fromisoformat(worker["last_heartbeat_time"]) >= since for worker in answer.json())
        for answer in answers
    )


def _work_pool(client: SyncPrefectClient, name: str, limit: int) -> None:
    if client.read_work_pools(work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[name]))):
        return
    client.create_work_pool(
        WorkPoolCreate(
            name=name,
            type="process",
            concurrency_limit=limit,
            base_job_template=ProcessWorker.get_default_base_job_template(),
        )
    )


def _automation(client: SyncPrefectClient) -> None:
    """A run whose heartbeats stop without its having ended becomes Crashed, which frees its slots."""
    if client.read_automations_by_name(SILENT):
        return
    ended = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    client.create_automation(
        AutomationCore(
            name=SILENT,
            description="A worker that was killed sends no heartbeat of its runs.",
            trigger=EventTrigger(
                after={"prefect.flow-run.heartbeat"},
                expect={"prefect.flow-run.heartbeat", *ended},
                match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=SILENCE,
            ),
            actions=[ChangeFlowRunState.model_validate({"state": StateType.CRASHED, "message": LOST})],
        )
    )


def _version() -> str:
    """Hash of all that a deployment is made from."""
    files = [Path(__file__).with_name("prefect.yaml"), *sorted((REPOSITORY / "flows").glob("*.py"))]
    digest = hashlib.sha256(code_version().encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
