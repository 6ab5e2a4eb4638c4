"""Configure supervisord with the programs of the local stack.

supervisord keeps them running (one that dies is restarted), keeps their logs, and ends them and their children.
It answers on a Unix socket that only its owner can open.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from deployments.local.settings import ARTIFACTS, GPU, LIGHT, LIGHT_RUNS, REPOSITORY, Stack
from flows.support import servers

SERVERS = "servers"
WORKERS = "workers"
GATEWAY = "gateway"
APPROVALS = "approvals"


def cuda_devices() -> int:
    import torch  # takes seconds to import; only `up` needs it

    return torch.cuda.device_count()


def server_commands(stack: Stack) -> dict[str, list[str]]:
    """Return the command of each server."""
    return {
        "s3": [sys.executable, "-m", "deployments.local.stack", "s3"],
        "prefect": servers.prefect_command(stack.prefect_port),
        "mlflow": [*servers.mlflow_command(stack.mlflow_port), "--artifacts-destination", f"s3://{ARTIFACTS}"],
    }


def worker_commands(devices: int, cores: int) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Return the command and environment of each worker: one per CUDA device, which only it sees, or one in all."""

    def worker(pool: str, name: str, limit: int) -> list[str]:
        options = ["--name", name, "--type", "process", "--limit", str(limit), "--no-create-pool-if-not-found"]
        return [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, *options]

    gpu = {f"gpu-{n}": (worker(GPU, f"gpu-{n}", 1), {"CUDA_VISIBLE_DEVICES": str(n)}) for n in range(devices)}
    return {
        "light": (worker(LIGHT, "light", LIGHT_RUNS), {}),
        **(gpu or {"gpu": (worker(GPU, "gpu", cores), {})}),
    }


def gateway_command(stack: Stack, options: Sequence[str]) -> list[str]:
    """Return the command of the gateway, with these options of `respect serve`."""
    serve = [sys.executable, "-m", "deployments.serving", "--run", GATEWAY, "--port", str(stack.gateway_port)]
    return [*serve, *options]


def approvals_command(stack: Stack) -> list[str]:
    """Return the command of the approvals page."""
    return [sys.executable, "-m", "deployments.approvals", "--run", APPROVALS, "--port", str(stack.approvals_port)]


def configuration(stack: Stack, devices: int, cores: int, gateway: Sequence[str] = ()) -> str:
    """Return the text of supervisord.conf. What needs the servers waits until told to start.

    Args:
        gateway: options of `respect serve`; no gateway without any.
    """
    folder = stack.folder
    sections = [
        _section("unix_http_server", file=_socket(stack), chmod="0600"),
        _section(
            "supervisord",
            logfile=folder / "logs" / "supervisord.log",
            pidfile=folder / "supervisord.pid",
            childlogdir=folder / "logs",
            directory=REPOSITORY,
            umask="077",
        ),
        _section("supervisorctl", serverurl=f"unix://{_socket(stack)}"),
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n",
    ]
    started, workers = server_commands(stack), worker_commands(devices, cores)
    sections += [_program(stack, name, command, {}, autostart="true") for name, command in started.items()]
    sections += [
        _program(stack, name, command, environment, autostart="false")
        for name, (command, environment) in workers.items()
    ]
    sections.append(_section(f"group:{SERVERS}", programs=",".join(started)))
    sections.append(_section(f"group:{WORKERS}", programs=",".join(workers)))
    command = approvals_command(stack)
    sections.append(_program(stack, APPROVALS, command, {}, autostart="false", directory=folder))
    if gateway:
        command = gateway_command(stack, gateway)
        sections.append(_program(stack, GATEWAY, command, {}, autostart="false", directory=folder))
    return "\n".join(sections)


def program(name: str) -> str:
    """Return the path of a program that came with the project's dependencies.

    Raises:
        ValueError: it is not installed.
    """
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise ValueError(f'the program {name} is missing: pip install "respect[stack]"')
    return found


def _program(stack: Stack, name: str, command: list[str], environment: Mapping[str, str], **given: object) -> str:
    return _section(
        f"program:{name}",
        command=" ".join(f'"{part}"' for part in command),
        environment=",".join(f'{key}="{value}"' for key, value in environment.items()),
        autorestart="true",
        startsecs=5,
        startretries=100,  # a worker survives a server that is unreachable for a while
        stopwaitsecs=30,
        stopasgroup="true",
        redirect_stderr="true",
        stdout_logfile=f"{stack.logs}/{name}.log".replace("%", "%%"),  # supervisor expands it twice
        stdout_logfile_maxbytes="20MB",
        stdout_logfile_backups=3,
        **given,
    )


def _section(title: str, **values: object) -> str:
    lines = [f"{name} = {str(value).replace('%', '%%')}" for name, value in values.items()]
    return "\n".join([f"[{title}]", *lines, ""])


def _socket(stack: Stack) -> Path:
    return stack.folder / "supervisor.sock"
