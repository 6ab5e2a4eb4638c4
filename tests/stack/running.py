"""A local stack in a folder of its own, on free ports, as its users see it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from mlflow import MlflowClient
from paths import REPOSITORY
from prefect.client.base import PrefectHttpxSyncClient

from deployments.local import programs
from deployments.local.settings import S3_PORTS, Stack
from flows.support import servers
from respect_core.store.base import Store
from respect_core.store.open import open_store
from respect_core.variants import SEED, SYSTEMS
from tasks.registry import registry

ROUND = "next-round/round"
TRAIN = "train-variant/train-variant"
SMALL: dict[str, Any] = {"seeds": 1, "max_steps": 2, "minimum": 10}
"""Parameters of a round that take little time."""


class RunningStack:
    """A stack, the commands that start and stop it, and its servers as their users see them."""

    def __init__(self, folder: Path) -> None:
        first, *others = free_ports()
        prefect, mlflow, gateway, approvals = others
        self.stack = Stack(folder, prefect, mlflow, s3_port=first, gateway_port=gateway, approvals_port=approvals)
        # A connection kept over a pause of a busy server may be gone when it is used again.
        no_reuse = httpx.Limits(max_keepalive_connections=0)
        # As Prefect's own clients: the server answers 503 where two writes to its SQLite meet, and is asked again.
        self.api = PrefectHttpxSyncClient(base_url=f"{self.stack.prefect}/api", timeout=600, limits=no_reuse)
        self.mlflow = MlflowClient(tracking_uri=self.stack.mlflow)  # with the login in the environment

    @property
    def environment(self) -> dict[str, str]:
        return {
            "RESPECT_STACK": str(self.stack.folder),
            "RESPECT_PREFECT_PORT": str(self.stack.prefect_port),
            "RESPECT_MLFLOW_PORT": str(self.stack.mlflow_port),
            "RESPECT_S3_PORT": str(self.stack.s3_port),
            "RESPECT_GATEWAY_PORT": str(self.stack.gateway_port),
            "RESPECT_APPROVALS_PORT": str(self.stack.approvals_port),
            "RESPECT_START_SECONDS": "900",
            # How often the scheduler looks for new schedules, and workers for work; by default every 60 and 10 s.
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
        }

    def command(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`make up` and the like, without the installation that make would look after first."""
        return subprocess.run(
            [sys.executable, "-m", "deployments.local.stack", *words],
            cwd=REPOSITORY,
            env=os.environ | self.environment | environment,
            capture_output=True,
            text=True,
        )

    def up(self, *options: str) -> str:
        done = self.command("up", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        self.api.auth = (servers.USER, servers.password(self.stack.password))
        return done.stdout

    def store(self) -> Store:
        """Needs the stack's variables in the environment."""
        return open_store(self.stack.environment()["RESPECT_STORE"])

    def deployment(self, name: str) -> str:
        """Its id."""
        answer = self.api.get(f"/deployments/name/{name}")
        return str(answer.json()["id"])

    def start(self, deployment: str, **parameters: Any) -> str:
        """A run of a deployment, as its form makes it; returns its id."""
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        answer = self.api.post(f"/deployments/{self.deployment(deployment)}/create_flow_run", json=body)
        return str(answer.json()["id"])

    def schedule(self, deployment: str, seconds: float, **parameters: Any) -> str:
        """A schedule that fires once soon, and then daily; returns its id."""
        schedule = {"interval": 86400, "anchor_date": (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()}
        body = [{"schedule": schedule, "active": True, "parameters": parameters, "slug": "soon"}]
        answer = self.api.post(f"/deployments/{self.deployment(deployment)}/schedules", json=body)
        return str(answer.json()[0]["id"])

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """All runs of a deployment, the oldest first."""
        body = {"deployments": {"id": {"any_": [self.deployment(deployment)]}}, "sort": "START_TIME_ASC"}
        found: list[dict[str, Any]] = self.api.post("/flow_runs/filter", json=body).json()
        return found

    def ended(self, run: str, seconds: float = 1500) -> dict[str, Any]:
        """The run once it has ended."""
        deadline = time.monotonic() + seconds
        while True:
            found: dict[str, Any] = self.api.get(f"/flow_runs/{run}").json()
            if found["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return found
            assert time.monotonic() < deadline, f"{found['name']} is {found['state_name']}; {self.stack.logs}"
            time.sleep(2)

    def heartbeats(self, run: str) -> list[dict[str, Any]]:
        """Events that say that a run is alive."""
        wanted = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run}"]}}
        answer = self.api.post("/events/filter", json={"filter": wanted})
        found: list[dict[str, Any]] = answer.json()["events"]
        return found

    def wait(self, found: Callable[[], Sequence[Any]], seconds: float) -> None:
        """Return when something is found."""
        deadline = time.monotonic() + seconds
        while not found():
            assert time.monotonic() < deadline, f"not within {seconds} s; {self.stack.logs}"
            time.sleep(1)

    def kill_a_training(self, seconds: float = 900) -> None:
        """SIGKILL for the process of a variant's run on the pool, as soon as a process computes for it."""

        def killed() -> list[int]:
            for run in self.runs(TRAIN):
                processes = self.processes(PREFECT__FLOW_RUN_ID=run["id"])
                computing = {process for process, words in processes.items() if "tasks.compute.worker" in words}
                if computing and f"variant:{SEED}" not in run["tags"]:
                    for process in processes.keys() - computing:
                        os.kill(process, signal.SIGKILL)
                    return list(processes)
            return []

        self.wait(killed, seconds)

    def processes(self, **environment: str) -> dict[int, str]:
        """Command lines by process id, of those whose environment names this stack, and these values."""
        values = {"RESPECT_STACK": self.stack.folder, **environment}
        wanted = {f"{name}={value}".encode() for name, value in values.items()}
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # it has ended
                continue
        return found

    def processes_of_runs(self) -> list[int]:
        """Ids of the processes that work on flow runs."""
        found = self.processes()
        return [process for process in found if _has_variable(process, b"PREFECT__FLOW_RUN_ID=")]

    def control(self, *command: str) -> str:
        """Ask supervisord; return its answer."""
        program = [programs.program("supervisorctl"), "-c", str(self.stack.folder / "supervisord.conf"), *command]
        return subprocess.run(program, capture_output=True, text=True).stdout.strip()

    def versions(self) -> dict[str, int]:
        """How many versions of each variant rounds have registered."""
        found = {variant: self.mlflow.search_model_versions(f"name='respect.{variant}'") for variant in SYSTEMS}
        return {
            variant: sum(registry.RETRAINED not in each.tags for each in versions)
            for variant, versions in found.items()
        }


def supervised(program: str) -> str:
    """The name of a program of the stack in supervisord, with its group's."""
    groups = {"s3": "servers", "prefect": "servers", "mlflow": "servers", "light": "workers", "gpu": "workers"}
    return f"{groups[program]}:{program}" if program in groups else program


def _has_variable(process: int, start: bytes) -> bool:
    try:
        return any(each.startswith(start) for each in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"))
    except OSError:  # it has ended
        return False


def free_ports() -> tuple[int, int, int, int, int]:
    """The first of S3_PORTS in a row, and four more."""
    for first in range(20_000, 30_000, S3_PORTS + 4):
        if all(_is_free(port) for port in range(first, first + S3_PORTS + 4)):
            after = first + S3_PORTS
            return first, after, after + 1, after + 2, after + 3
    raise AssertionError("no fourteen free ports in a row")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
