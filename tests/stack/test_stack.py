"""The local stack from end to end: real servers, real workers, a scheduled round. `make test-stack` runs it."""

from __future__ import annotations

import os
import signal
import socket
import stat
from pathlib import Path

import httpx
import made_up_games
import psutil
import pytest
import strangers
from running import ROUND, SMALL, TRAIN, RunningStack, free_ports

from respect_core.store import tables
from respect_core.store.open import open_store
from respect_core.variants import SYSTEMS
from tasks.registry import registry

pytestmark = [pytest.mark.stack, pytest.mark.timeout(3600)]


def test_credentials_are_private_and_in_no_log_and_no_command_line(running: RunningStack) -> None:
    folder, s3 = running.stack.folder, running.stack.s3_folder  # SeaweedFS sets modes of some of its files itself
    written = [each for each in [folder, s3, *folder.rglob("*")] if s3 not in each.parents and not each.is_socket()]
    assert not [each for each in written if stat.S_IMODE(each.stat().st_mode) & 0o077]
    secrets = {*running.stack.read_credentials().values(), running.stack.password.read_text()}
    assert len(secrets) == 3
    shown = [file.read_text(errors="replace") for file in running.stack.logs.iterdir()]
    shown += [(running.stack.folder / name).read_text() for name in ("env", "supervisord.conf")]
    shown += running.processes().values()
    assert not [secret for secret in secrets if any(secret in text for text in shown)]


def test_no_port_lets_strangers_read_or_write(running: RunningStack, tmp_path: Path) -> None:
    """Neither other users of the machine nor other sites' pages, by any name that points here."""
    store = running.store()
    store.put("ready", b"ready")

    def state() -> tuple[object, ...]:
        flows = running.api.post("/flows/count", json={}).json()
        deployments = running.api.post("/deployments/count", json={}).json()
        variables = running.api.post("/variables/count", json={}).json()
        return flows, deployments, variables, len(running.mlflow.search_experiments()), store.keys()

    before = state()
    pid = int((running.stack.folder / "supervisord.pid").read_text())
    ports = strangers.listening(psutil.Process(pid))
    assert set(running.stack.ports) <= ports
    assert not [found for port in ports for found in strangers.let_in(port, tmp_path)]
    assert state() == before and store.read("ready") == b"ready"


def test_a_busy_port_is_named(tmp_path: Path, running: RunningStack) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        first, prefect, *_ = free_ports()
        elsewhere = {"RESPECT_PREFECT_PORT": str(prefect), "RESPECT_S3_PORT": str(first)}
        done = running.command("up", RESPECT_STACK=str(tmp_path), RESPECT_MLFLOW_PORT=str(port), **elsewhere)
    assert done.returncode == 1 and f"port {port} of 127.0.0.1" in done.stderr
    assert "is taken" in done.stderr and "RESPECT_MLFLOW_PORT" in done.stderr


def test_too_few_interactions_end_the_round_with_a_message(running: RunningStack) -> None:
    run = running.ended(running.start(ROUND, parameters=SMALL | {"number": 0, "minimum": 1000}))
    assert run["state_type"] == "COMPLETED"
    assert "not enough new interactions" in run["state"]["message"] and "b-fft 980" in run["state"]["message"]


def test_a_scheduled_round_registers_six_versions(running: RunningStack, learned: str) -> None:
    run = running.ended(learned)
    assert run["name"] == "round 0" and "round:0" in run["tags"]
    assert all(count >= 1 for count in running.versions().values())
    for variant in SYSTEMS:
        candidate = running.mlflow.get_model_version_by_alias(f"respect.{variant}", registry.CANDIDATE)
        assert candidate.tags["round"] in ("0", "1") and candidate.tags["variant"] == variant
    tags = {tag for each in running.runs(TRAIN) for tag in each["tags"]}
    assert tags >= {f"variant:{variant}" for variant in SYSTEMS}


def test_a_training_that_was_killed_in_the_round_was_asked_for_again(running: RunningStack, learned: str) -> None:
    """The round waited for the run that took its place, and there is one version."""
    runs = [run for run in running.runs(TRAIN) if "round:0" in run["tags"]]
    (killed,) = (run for run in runs if run["state_type"] == "CRASHED")
    tries = [run for run in runs if run["name"] == killed["name"]]
    assert [run["state_type"] for run in tries] == ["CRASHED", "COMPLETED"]
    assert [run["idempotency_key"][-2:] for run in tries] == ["#1", "#2"]
    (variant,) = (tag.removeprefix("variant:") for tag in killed["tags"] if tag.startswith("variant:"))
    versions = running.mlflow.search_model_versions(f"name='respect.{variant}'")
    assert [each.tags["round"] for each in versions if registry.RETRAINED not in each.tags].count("0") == 1


def test_the_round_has_its_artifacts(running: RunningStack, learned: str) -> None:
    found = running.api.post("/artifacts/latest/filter", json={"limit": 200}).json()
    keys = {each["key"] for each in found}
    assert {"round-0", "decoder-round-0", "mlflow-round-0", "b-kto-round-0", "mlflow-b-kto-round-0"} <= keys
    assert {"compare-round-0", "compare-b-kto"} <= keys


@pytest.fixture(scope="module")
def silenced(running: RunningStack, learned: str) -> tuple[str, set[int]]:
    """A run whose process was killed together with its worker: nobody is left to say that it ended. And the worker."""
    run = running.start("deployed-study/study", parameters={"name": "silent"})
    running.wait(lambda: running.heartbeats(run), 600)
    workers = _gpu_workers(running)
    for process in workers | set(running.processes(PREFECT__FLOW_RUN_ID=run)):
        os.kill(process, signal.SIGKILL)
    return run, workers


def test_a_killed_worker_is_started_again(running: RunningStack, silenced: tuple[str, set[int]]) -> None:
    _, killed = silenced
    assert killed
    running.wait(lambda: list(_gpu_workers(running) - killed), 120)


def test_the_same_round_again_repeats_nothing(running: RunningStack, learned: str) -> None:
    trained, versions = len(running.runs(TRAIN)), running.versions()
    run = running.ended(running.start(ROUND, parameters=SMALL | {"number": 0}))
    assert run["state_type"] == "COMPLETED" and "registered respect.b-fft/1" in run["state"]["message"]
    assert running.versions() == versions
    assert len(running.runs(TRAIN)) == trained


def test_two_rounds_at_once_give_one_result(running: RunningStack, learned: str) -> None:
    """Round 1 comes in; two runs are started at the same moment."""
    made_up_games.play(running.store(), 1, 12)
    before = running.versions()
    runs = [running.start(ROUND, parameters=SMALL | {"variants": ["b-fft"]}) for _ in range(2)]
    messages = sorted(running.ended(run)["state"]["message"] for run in runs)
    assert "nothing to do" in messages[0] and "round 1 registered respect.b-fft/" in messages[1]
    assert running.versions() == {**before, "b-fft": before["b-fft"] + 1}


def test_a_variant_retrained_by_hand_stands_beside_the_rounds(running: RunningStack, learned: str) -> None:
    before = running.mlflow.get_model_version_by_alias("respect.t-fft", registry.CANDIDATE).version
    settings = {"max_steps": 1, "learning_rate": 1e-3}
    run = running.ended(running.start("retrain/retrain", variant="t-fft", round=0, seeds=1, hyperparameters=settings))
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert running.mlflow.get_model_version_by_alias("respect.t-fft", registry.CANDIDATE).version == before
    name, number = run["state"]["message"].split()[0].split("/")
    beside = running.mlflow.get_model_version(name, number)
    assert beside.tags[registry.RETRAINED] == "True" and beside.tags["round"] == "0"


def test_redecoded_labels_lie_beside_the_old_ones(running: RunningStack, learned: str) -> None:
    store = running.store()
    before = tables.read_table(store, "feedback", [0])
    run = running.ended(running.start("redecode/redecode", round=0, name="strict", positive=2.0))
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert tables.read_table(store, "feedback", [0]).equals(before)
    after = tables.read_table(open_store(f"{store.uri}/redecoded/strict"), "feedback", [0])
    assert len(after) == len(before)
    positives = [sum(label == 1 for label in table["label"].to_pylist()) for table in (before, after)]
    assert positives[1] < positives[0]


def test_a_run_that_went_silent_becomes_crashed(running: RunningStack, silenced: tuple[str, set[int]]) -> None:
    ended = running.ended(silenced[0], seconds=900)
    assert ended["state_type"] == "CRASHED" and "No heartbeat" in ended["state"]["message"]


def test_a_gateway_joins_the_running_stack(running: RunningStack) -> None:
    """It asks for the password, and waits for a policy that can talk."""
    assert f"{running.stack.gateway}/v1" in running.up("--gateway", "--scenario home --variants b-fft")
    models = f"{running.stack.gateway}/v1/models"
    assert httpx.get(models).status_code == 401
    key = {"Authorization": f"Bearer {running.stack.password.read_text()}"}
    assert "respect.b-fft" in httpx.get(models, headers=key).text


def test_state_survives_down_and_up(running: RunningStack, learned: str) -> None:
    versions, runs = running.versions(), len(running.runs(ROUND))
    credentials = running.stack.credentials.read_bytes()
    assert running.command("down").returncode == 0
    assert not running.processes(), "processes were left behind"
    assert running.stack.mlflow in running.up()
    assert running.versions() == versions
    assert len(running.runs(ROUND)) == runs
    assert running.stack.credentials.read_bytes() == credentials
    assert running.store().exists("game_sets/d0.jsonl")


def _gpu_workers(running: RunningStack) -> set[int]:
    return {process for process, words in running.processes().items() if "--name gpu " in words}
