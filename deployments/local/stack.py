"""The local stack: Prefect, MLflow, SeaweedFS and a worker for each work pool, on the loopback, without Docker.

`make up` and `make down`; state stays in runs/stack (RESPECT_STACK). docs/operations.md says what each process is.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from deployments.local import programs, seaweedfs
from deployments.local.settings import ARTIFACTS, BUCKET, FOREIGN, REPOSITORY, Stack, from_environment
from flows.support import environment, servers
from flows.support.terminal import clear_errors
from respect_core.errors import ExpectedError
from respect_core.settings import link_key, settings

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


class StackError(ExpectedError):
    """The stack did not start or stop; the message says what to do."""


@app.command()
def up(
    gateway: Annotated[
        str, typer.Option(help="Options of `respect serve`, as '--scenario home': a gateway with them runs too.")
    ] = "",
) -> None:
    """Start everything, wait until it answers, and deploy deployments/prefect.yaml."""
    with clear_errors():
        start(stack := from_environment())
        if gateway:
            start_gateway(stack, shlex.split(gateway))
    typer.echo(
        f"Prefect  {stack.prefect}\nMLflow   {stack.mlflow}\nS3       {stack.s3} ({stack.credentials})\n"
        + f"approvals {stack.approvals} (links: `respect link approver NAME`)\n"
        + (f"gateway  {stack.gateway}/v1 (key: the password)\n" if gateway else "")
        + f"{servers.how_to_log_in(servers.password(stack.password))}\n"
        f"logs     {stack.logs}\n`. {stack.folder / 'env'}` points a shell at it; `make down` stops it."
    )


@app.command()
def down() -> None:
    """Stop everything; state stays."""
    with clear_errors():
        stop(from_environment())


@app.command()
def status() -> None:
    """Show what is running, as supervisord sees it."""
    typer.echo(_control(from_environment(), "status"))


@app.command(hidden=True)
def s3() -> None:
    """Become the S3 server. It takes its credentials from the environment, which no other process shares."""
    stack = from_environment()
    ports = range(stack.s3_port, stack.s3_port + seaweedfs.PORTS)
    command = seaweedfs.command(programs.program("weed"), stack.s3_folder, [BUCKET, ARTIFACTS], ports)
    os.chdir(stack.s3_folder)
    os.execve(command[0], command, os.environ | stack.read_credentials())


def start(stack: Stack) -> None:
    """Start what is not running; return when all of it answers.

    Raises:
        StackError: a port is taken, something does not answer in time, or what is running asks for no login.
    """
    os.umask(0o077)
    stack.prepare()
    for name in FOREIGN:
        os.environ.pop(name, None)
    os.environ.update(stack.environment() | stack.login())
    environment.prepare(stack.folder)
    os.environ.update(_server_environment(stack))
    if not _running(stack):
        _require_free(stack.ports)
        config = programs.configuration(stack, programs.cuda_devices(), _cores())
        _config(stack).write_text(config)
        subprocess.run([programs.program("supervisord"), "-c", str(_config(stack))], check=True)
        seconds = settings().start_seconds
        if not _becomes(lambda: _running(stack), seconds):  # first it goes into the background
            raise StackError(f"supervisord did not start within {seconds:.0f} s; see {stack.logs}")
    _wait(stack, "s3", lambda: _s3_answers(stack))
    password, version = servers.password(stack.password), f"{stack.prefect}/api/admin/version"
    _wait(stack, "prefect", lambda: servers.answers(version, password))
    if servers.answers(version, "guessed"):
        raise StackError("an earlier version started what runs here, and it lets everybody in: `make down`, `make up`")
    _wait(stack, "mlflow", lambda: servers.answers(f"{stack.mlflow}/version", password))
    from deployments.local import registration  # imports Prefect, which then reads its settings

    registration.register(programs.cuda_devices() or _cores())
    asked = datetime.now(UTC)
    _control(stack, "start", f"{programs.WORKERS}:*", programs.APPROVALS)
    _wait(stack, programs.WORKERS, lambda: registration.workers_online(asked))
    _wait(stack, programs.APPROVALS, lambda: servers.answers(f"{stack.approvals}/health", ""))


def start_gateway(stack: Stack, options: Sequence[str]) -> None:
    """Start a gateway with these options of `respect serve` on the running stack; one with others ends.

    Raises:
        StackError: its port is taken, or it does not answer in time.
    """
    _config(stack).write_text(programs.configuration(stack, programs.cuda_devices(), _cores(), options))
    _control(stack, "update", programs.GATEWAY)
    if "RUNNING" not in _control(stack, "status", programs.GATEWAY):
        _require_free({stack.gateway_port: "the gateway (RESPECT_GATEWAY_PORT)"})
        _control(stack, "start", programs.GATEWAY)
    # It is ready to talk only once the registry has a policy, which may be trained later.
    _wait(stack, programs.GATEWAY, lambda: servers.answers(f"{stack.gateway}/health", ""))


def stop(stack: Stack) -> None:
    """Stop the stack if it is running; return when none of it is.

    Raises:
        StackError: it is still running after a minute.
    """
    if not _running(stack):
        return
    _control(stack, "shutdown")
    if not _becomes(lambda: not _running(stack), 120):
        raise StackError(f"supervisord did not end; see {stack.logs / 'supervisord.log'}")
    if not _becomes(lambda: not _end_runs(stack, signal.SIGTERM), 30):
        _end_runs(stack, signal.SIGKILL)


def _end_runs(stack: Stack, number: signal.Signals) -> list[int]:
    """Send a signal to the processes of flow runs, which outlive a worker that was killed; return their ids."""
    ours, run, found = f"RESPECT_STACK={stack.folder}".encode(), b"PREFECT__FLOW_RUN_ID=", []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is somebody else's
            variables = (folder / "environ").read_bytes().split(b"\0")
            if ours in variables and any(each.startswith(run) for each in variables):
                os.kill(int(folder.name), number)
                found.append(int(folder.name))
    return found


def _server_environment(stack: Stack) -> dict[str, str]:
    """Return the environment of the stack's processes, besides its addresses; children of supervisord inherit it."""
    return {
        # Use this checkout's code, wherever the package was installed from.
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "RESPECT_STACK": str(stack.folder),
        "RESPECT_PREFECT_PORT": str(stack.prefect_port),
        "RESPECT_MLFLOW_PORT": str(stack.mlflow_port),
        "RESPECT_S3_PORT": str(stack.s3_port),
        "RESPECT_GATEWAY_PORT": str(stack.gateway_port),
        "RESPECT_APPROVALS_PORT": str(stack.approvals_port),
        "RESPECT_LINK_KEY": link_key() or servers.password(stack.link_key),
        "RESPECT_GATEWAY_KEYS": settings().gateway_keys.get_secret_value()
        or f"stack:{servers.password(stack.password)}",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "MLFLOW_S3_ENDPOINT_URL": stack.s3,
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        **servers.prefect_settings(stack.prefect_port),
        **servers.mlflow_settings(settings().mlflow_database or f"sqlite:///{stack.folder}/mlflow.db"),
    }


def _require_free(ports: Mapping[int, str]) -> None:
    for port, who in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise StackError(
                    f"port {port} of 127.0.0.1, for {who}, is taken ({error.strerror}); stop what listens there, "
                    "or set that variable to another port"
                ) from None


def _wait(stack: Stack, name: str, answers: Callable[[], bool]) -> None:
    """Wait until a server answers. Raises StackError."""
    seconds = settings().start_seconds
    in_time = _becomes(lambda: answers() or not _running(stack), seconds)
    if not _running(stack):
        raise StackError(f"the stack was stopped before {name} answered; see {stack.logs}")
    if not in_time:
        raise StackError(
            f"{name} did not answer within {seconds:.0f} s (RESPECT_START_SECONDS); what did start runs on "
            f"until `make down`. The end of its log:\n{_tail(stack, name)}"
        )


def _becomes(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds; return whether it does within this time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.3)
    return True


def _tail(stack: Stack, name: str) -> str:
    log = stack.logs / f"{name}.log"
    files = [log] if log.exists() else sorted(stack.logs.glob("*.log"))
    return "\n".join(f"{file}:\n" + "\n".join(file.read_text().splitlines()[-20:]) for file in files)


def _s3_answers(stack: Stack) -> bool:
    """Whether it accepts our credentials and has our bucket."""
    from respect_core.store.base import StoreError
    from respect_core.store.open import open_store

    try:
        with urllib.request.urlopen(stack.s3, timeout=5):
            pass
    except urllib.error.HTTPError:
        pass  # it answers: anonymous access is refused
    except OSError:
        return False
    try:
        open_store(stack.environment()["RESPECT_STORE"]).exists("ready")
    except StoreError:
        return False
    return True


def _control(stack: Stack, *command: str) -> str:
    control = [programs.program("supervisorctl"), "-c", str(_config(stack)), *command]
    return subprocess.run(control, capture_output=True, text=True).stdout.strip()


def _running(stack: Stack) -> bool:
    """Whether this stack's supervisord is running."""
    try:
        pid = int((stack.folder / "supervisord.pid").read_text())
        return str(_config(stack)).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False


def _config(stack: Stack) -> Path:
    return stack.folder / "supervisord.conf"


def _cores() -> int:
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    sys.exit(app())
