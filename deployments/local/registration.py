"""Register what Prefect's server must know: work pools, deployments, and the automation for silent runs."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName
from prefect.events.actions import RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.variables import Variable
from prefect.workers.process import ProcessWorker

from deployments.local.settings import GPU, LIGHT, LIGHT_RUNS, REPOSITORY
from flows.support.reaper import HEARTBEAT
from respect_core.versions import code_version

SILENT = "Crash runs that went silent"
SILENCE = timedelta(seconds=300)
"""Longer than `flows.support.reaper` waits, so that a silent run is found at the first look."""
UNBEGUN = "Crash runs that did not begin"
BEGINNING = timedelta(seconds=660)
"""As long, for runs whose worker was killed before it had started their process."""
REAPER = "reaper"
"""The deployment, and its queue in the light pool, which has its own slot: silent runs may hold all others."""

_DEPLOYMENTS = REPOSITORY / "deployments" / "prefect.yaml"
REGISTERED = "respect_registered"
"""Prefect variable: hash of what was registered last. It is on the server, so that a new database starts empty."""


def register(devices: int) -> None:
    """Make what is absent; deploy prefect.yaml, set limits and automation, unless exactly that was done before.

    Edits made in the UI stay until the deployments, the code or the number of devices change.

    Args:
        devices: How many runs the GPU pool may have at once.

    Raises:
        ValueError: prefect.yaml was not deployed; the message has the command's output.
    """
    limits = {LIGHT: LIGHT_RUNS, GPU: devices}
    version = _version(limits)
    changed = Variable.get(REGISTERED) != version
    with get_client(sync_client=True) as client:
        for pool, limit in limits.items():
            _work_pool(client, pool, limit, changed)
        if changed:
            _deploy()
            _reserve_a_slot(client)
            _automations(client)
            Variable.set(REGISTERED, version, overwrite=True)


def _deploy() -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(_DEPLOYMENTS)]
    environment = {**os.environ, "RESPECT_CODE": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{_DEPLOYMENTS} was not deployed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


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


def _work_pool(client: SyncPrefectClient, name: str, limit: int, changed: bool) -> None:
    if client.read_work_pools(work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[name]))):
        if changed:
            client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit))
        return
    client.create_work_pool(
        WorkPoolCreate(
            name=name,
            type="process",
            concurrency_limit=limit,
            base_job_template=ProcessWorker.get_default_base_job_template(),
        )
    )


def _reserve_a_slot(client: SyncPrefectClient) -> None:
    """Reserve the reaper's slot: all other runs are in the default queue."""
    default = client.read_work_queue_by_name("default", work_pool_name=LIGHT)
    client.update_work_queue(default.id, concurrency_limit=LIGHT_RUNS - 1)


def _automations(client: SyncPrefectClient) -> None:
    """Start the reaper if a run's heartbeats stop before it has ended, or if it does not begin."""
    # The last two need no process: somebody must answer, or a worker start the run again. The server may hear of these
    # before the last heartbeat or, on SQLite, never: so the automation itself ends nothing.
    ends = _states("Completed", "Failed", "Cancelled", "Crashed", "Suspended", "AwaitingRetry")
    told = "A worker that was killed sends no heartbeat of its runs."
    _automation(client, SILENT, told, after={HEARTBEAT}, expect={HEARTBEAT} | ends, within=SILENCE)
    told = "A worker that was killed does not start what it has taken."
    taken = _states("Pending", "Submitting")
    _automation(client, UNBEGUN, told, after=taken, expect=ends | _states("Running"), within=BEGINNING)


def _states(*names: str) -> set[str]:
    """Return the events in which runs enter these states."""
    return {f"prefect.flow-run.{name}" for name in names}


def _automation(
    client: SyncPrefectClient, name: str, description: str, *, after: set[str], expect: set[str], within: timedelta
) -> None:
    """Start the reaper if, after one of these events of a run, none of those that are expected comes in time."""
    reaper = client.read_deployment_by_name(f"{REAPER}/{REAPER}")
    wanted = AutomationCore(
        name=name,
        description=description,
        trigger=EventTrigger(
            after=after,
            expect=expect,
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        ),
        actions=[RunDeployment.model_validate({"source": "selected", "deployment_id": reaper.id})],
    )
    found = client.read_automations_by_name(name)
    if not found:
        client.create_automation(wanted)
    # Only if it differs: on an update, Prefect forgets which runs it has heard from.
    elif (found[0].trigger, found[0].actions) != (wanted.trigger, wanted.actions):
        client.update_automation(found[0].id, wanted)


def _version(limits: Mapping[str, int]) -> str:
    """Hash of everything that pools, automation and deployments are made from."""
    files = [Path(__file__), _DEPLOYMENTS]
    files += [file for room in ("flows", "tasks") for file in sorted((REPOSITORY / room).rglob("*.py"))]
    digest = hashlib.sha256(f"{REPOSITORY} {sorted(limits.items())} {code_version()}".encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
