"""What the local stack consists of, without starting it (tests/stack does)."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from supervisor.options import ServerOptions

from deployments.local import programs, seaweedfs, settings
from deployments.local import stack as running
from deployments.local.settings import GPU, LIGHT, REPOSITORY, Stack


def test_ports_come_from_the_environment_and_must_be_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESPECT_PREFECT_PORT", "4999")
    assert settings.from_environment().prefect == "http://127.0.0.1:4999"
    monkeypatch.setenv("RESPECT_S3_PORT", "80a")
    with pytest.raises(ValueError, match=r"RESPECT_S3_PORT='80a': .*integer"):
        settings.from_environment()


def test_credentials_are_made_once_and_are_in_no_other_file(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    stack.prepare()
    made = stack.read_credentials()
    stack.prepare()
    assert stack.read_credentials() == made and set(made) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert stat.S_IMODE(stack.credentials.stat().st_mode) == 0o600
    assert not [secret for secret in made.values() if secret in (tmp_path / "env").read_text()]


def test_a_shell_gets_the_login_from_its_file(tmp_path: Path) -> None:
    """Made once, readable by its owner alone, and in no other file."""
    tmp_path.chmod(0o755)
    stack = Stack(tmp_path / "a folder")
    stack.prepare()
    login = stack.login()
    stack.prepare()
    assert stack.login() == login and len(stack.password.read_text()) > 20
    assert stat.S_IMODE(stack.password.stat().st_mode) == 0o600 and stat.S_IMODE(stack.folder.stat().st_mode) == 0o700
    for secret in (stack.password, stack.link_key):
        files = [each for each in stack.folder.rglob("*") if each.is_file() and each != secret]
        assert not [each for each in files if secret.read_bytes() in each.read_bytes()]
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    shell = f". {shlex.quote(str(stack.folder / 'env'))}; env"
    shown = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout.splitlines()
    assert {f"{name}={value}" for name, value in {**stack.environment(), **login}.items()} <= set(shown)


def test_what_a_killed_worker_left_ends_with_the_stack(tmp_path: Path) -> None:
    def sleeping(**variables: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", "600"], env=os.environ | variables)

    ours, run = {"RESPECT_STACK": str(tmp_path)}, {"PREFECT__FLOW_RUN_ID": "1"}
    left, *others = sleeping(**ours, **run), sleeping(**ours), sleeping(RESPECT_STACK="elsewhere", **run)
    try:
        assert running._end_runs(Stack(tmp_path), signal.SIGTERM) == [left.pid]
        assert left.wait(10) == -signal.SIGTERM and not running._end_runs(Stack(tmp_path), signal.SIGTERM)
        assert [other.poll() for other in others] == [None, None]
    finally:
        for each in (left, *others):
            each.kill()
            each.wait()


def test_a_worker_for_each_device_that_it_alone_sees() -> None:
    workers = programs.worker_commands(devices=2, cores=16)
    assert set(workers) == {"light", "gpu-0", "gpu-1"}
    assert [workers[name][1] for name in ("gpu-0", "gpu-1")] == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "1"},
    ]
    command, environment = programs.worker_commands(devices=0, cores=16)["gpu"]
    assert command[command.index("--limit") + 1] == "16" and not environment


def test_supervisord_starts_servers_by_itself_and_workers_when_told(tmp_path: Path) -> None:
    """As supervisord itself reads its configuration, in a folder whose name it could take for a variable."""
    stack = Stack(tmp_path / "50%")
    stack.prepare()
    config = tmp_path / "supervisord.conf"
    config.write_text(programs.configuration(stack, devices=0, cores=2))
    options = ServerOptions()
    options.realize(["-c", str(config)])
    (listens,) = options.server_configs
    assert (listens["family"], listens["chmod"]) == (socket.AF_UNIX, 0o600), "nobody else gets in"
    assert options.umask == 0o077 and options.directory == str(REPOSITORY)
    processes = {each.name: each for group in options.process_group_configs for each in group.process_configs}
    starts = {name: each.autostart for name, each in processes.items()}
    assert starts == {"s3": True, "prefect": True, "mlflow": True, "light": False, "gpu": False, "approvals": False}
    for name, each in processes.items():
        assert each.stdout_logfile == str(stack.logs / f"{name}.log") and each.redirect_stderr
        assert each.stopasgroup and each.killasgroup, "children end too"


def test_a_gateway_is_part_of_the_stack_if_it_is_asked_for(tmp_path: Path) -> None:
    """Its scratch folder is the stack's, and its key no part of the command line."""
    stack = Stack(tmp_path / "stack", gateway_port=8123)
    stack.prepare()
    config = tmp_path / "supervisord.conf"
    config.write_text(programs.configuration(stack, 0, 2, ["--scenario", "home", "--variants", "b-rl,control"]))
    options = ServerOptions()
    options.realize(["-c", str(config)])
    (group,) = (each for each in options.process_group_configs if each.name == programs.GATEWAY)
    (gateway,) = group.process_configs
    assert not gateway.autostart and gateway.directory == str(stack.folder)
    serve, given = shlex.split(gateway.command)[1:3], shlex.split(gateway.command)[3:]
    assert serve == ["-m", "deployments.serving"]
    assert given == [*("--run", "gateway", "--port", "8123", "--scenario", "home", "--variants", "b-rl,control")]


def test_every_server_listens_on_the_loopback_alone(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    for name in ("prefect", "mlflow"):
        command = programs.server_commands(stack)[name]
        assert command[command.index("--host") + 1] == "127.0.0.1"
    ports = sorted(set(stack.ports) - {stack.prefect_port, stack.mlflow_port, stack.approvals_port})
    weed = seaweedfs.command("weed", stack.s3_folder, ["respect"], ports)
    assert {"-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"} <= set(weed)
    assert ports == [int(option.split("=")[1]) for option in weed if re.match(r"-\w+\.port(\.grpc)?=[1-9]", option)]
    assert ports[0] == stack.s3_port


def _deployments() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((REPOSITORY / "deployments/prefect.yaml").read_text())["deployments"]
    return found


@pytest.mark.parametrize("deployment", _deployments(), ids=lambda deployment: deployment["name"])
def test_a_deployment_names_a_flow_whose_arguments_are_explained(deployment: dict[str, Any]) -> None:
    file, _, name = deployment["entrypoint"].partition(":")
    flow = getattr(importlib.import_module(file.removesuffix(".py").replace(os.sep, ".")), name)
    assert isinstance(flow, Flow)
    assert deployment["work_pool"]["name"] in (LIGHT, GPU)
    assert all(field.get("description") for field in flow.parameters.properties.values())


def test_only_one_round_runs_at_a_time_and_the_next_one_waits() -> None:
    (round,) = [each for each in _deployments() if each["name"] == "round"]
    assert round["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    assert [schedule["cron"] for schedule in round["schedules"]] == ["0 3 * * 1"]


def test_the_kubernetes_template_asks_for_a_device_and_uses_only_what_it_declares() -> None:
    text = (REPOSITORY / "deployments/kubernetes.json").read_text()
    template = json.loads(text)
    declared = set(template["variables"]["properties"])
    assert set(re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"]))) <= declared
    pod = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "{{ gpus }}"
    assert template["variables"]["properties"]["gpus"]["default"] == 1
    assert pod["securityContext"]["runAsNonRoot"] is True and not pod["automountServiceAccountToken"]
    assert pod["containers"][0]["securityContext"]["allowPrivilegeEscalation"] is False
    secrets = [source["secretRef"]["name"] for source in pod["containers"][0]["envFrom"]]
    assert secrets == ["{{ s3_secret }}", "{{ login_secret }}"]
    assert "secret" not in json.dumps(template["variables"]["properties"]["env"]).lower()
