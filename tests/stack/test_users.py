"""The whole loop on the stack: users talk to the gateway while a scheduled round learns from them and is promoted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from endpoints import endpoint
from running import ROUND, RunningStack, free_ports
from talking_users import Users, judged
from text_bases import one_call

from deployments.local.settings import BUCKET
from respect_core.log import served_chats
from respect_core.store import tables
from respect_core.store.open import open_store
from respect_core.variants import SEED, Variant

pytestmark = [pytest.mark.stack, pytest.mark.timeout(3600)]

SIMULATE, PROMOTE = "deployed-simulate/simulate", "deployed-promote/promote"
DEPLOYMENTS = (SIMULATE, ROUND, "decode/decode", "train-variant/train-variant", PROMOTE)
NEW, OLD = "respect.b-fft/1", f"respect.{SEED}/1"


@pytest.fixture(scope="module")
def home(running: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of another installation on the same stack: a store of its own, and a registry without versions.

    Its SmolLM2 is a small model, which the deployments' processes find in a cache of their own.
    """
    folder = tmp_path_factory.mktemp("home")
    one_call(folder / "cache")
    own = {
        "RESPECT_STORE": f"s3://{BUCKET}/home",
        "RESPECT_ROOT": str(folder / "workspace"),
        "RESPECT_CACHE": str(folder / "cache"),
    }
    _have_deployments_use(running, own)
    _rename(running, "respect", "games")
    yield own
    _rename(running, "respect", "home")
    _rename(running, "games", "respect")
    _have_deployments_use(running, {})


@pytest.fixture(scope="module")
def gateway(running: RunningStack, home: dict[str, str]) -> Iterator[str]:
    """The address of `respect serve`, which waits for its first policy."""
    port, *_ = free_ports()
    options = ["--scenario", "home", "--variants", "b-fft,control", "--idle", "1", "--port", str(port)]
    folder = Path(home["RESPECT_ROOT"]).parent
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.cli.main", "serve", "--run", "gateway", *options],
            cwd=folder,
            env=os.environ | home | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        assert process.wait(60) in (0, -15), (folder / "gateway.log").read_text()


def test_users_talk_on_while_a_round_learns_and_is_promoted(
    running: RunningStack, home: dict[str, str], gateway: str
) -> None:
    _completed(running, running.start(SIMULATE, parameters={"profile": "home", "variants": ["b-fft"], "games": 1}))
    _until(running, lambda: _versions(gateway) == [OLD, OLD], 300)
    with Users(gateway) as users, endpoint(judged) as judge:
        assert users.say("old", "hi") == OLD
        learning = {"profile": "home", "variants": ["b-fft"], "seeds": 1, "max_steps": 2, "minimum": 1}
        before = {run["id"] for run in running.runs(ROUND)}
        parameters = learning | {"decoder": f"openai:judge@{judge.url}"}
        schedule = running.schedule(ROUND, 15, parameters=parameters)
        running.wait(lambda: [run for run in running.runs(ROUND) if run["id"] not in before and run["start_time"]], 600)
        running.api.delete(f"/deployments/{running.deployment(ROUND)}/schedules/{schedule}")
        (scheduled,) = (run for run in running.runs(ROUND) if run["id"] not in before and run["start_time"])
        assert f"registered {NEW}" in _completed(running, scheduled["id"])
        allowed = {"user_share_cap": 1.0, "min_effective_users": 1.0, "min_feedback_turns": 1, "margin": 1.0}
        promoted = _completed(running, running.start(PROMOTE, parameters={"variant": "b-fft", **allowed}))
        assert NEW in promoted and "promoted" in promoted
        _until(running, lambda: _versions(gateway) == [NEW, OLD], 60)
        assert users.say("new", "hi") == NEW
        assert users.say("old", "hi", "hello", "no") == OLD
        talked = users.conversations
        _until(running, lambda: users.conversations > talked + 3, 300)
    store = open_store(home["RESPECT_STORE"])
    _until(running, lambda: {chat.id for chat in served_chats.read(store)} >= users.answered.keys(), 60)
    served = list(served_chats.read(store))
    assert max(Counter(chat.id for chat in served).values()) == 1
    assert {chat.version for chat in served} == {NEW, OLD}
    learned = tables.read_table(store, "training_sets", variants=[str(Variant.B_FFT)]).to_pylist()
    collected = {row["interaction_id"] for row in learned if row["interaction_id"].startswith("chat-")}
    assert collected, "besides what people and simulated users said elsewhere"


def _until(running: RunningStack, condition: Callable[[], bool], seconds: float) -> None:
    running.wait(lambda: [True] if condition() else [], seconds)


def _completed(running: RunningStack, run: str) -> str:
    ended = running.ended(run)
    assert ended["state_type"] == "COMPLETED", ended["state"]["message"]
    return str(ended["state"]["message"])


def _versions(gateway: str) -> list[str | None]:
    """What new conversations get, of b-fft and control."""
    try:
        variants = httpx.get(f"{gateway}/ready", timeout=30).json()["variants"]
    except httpx.TransportError:  # it has not begun to listen
        return []
    return [variants[name]["version"] for name in ("b-fft", "control")]


def _have_deployments_use(running: RunningStack, environment: dict[str, str]) -> None:
    for name in DEPLOYMENTS:
        variables = {"job_variables": {"env": environment} if environment else {}}
        running.api.patch(f"/deployments/{running.deployment(name)}", json=variables).raise_for_status()


def _rename(running: RunningStack, old: str, new: str) -> None:
    """Registered models and the experiment, by the first part of their names."""
    mlflow = running.mlflow
    for model in mlflow.search_registered_models(f"name LIKE '{old}.%'"):
        mlflow.rename_registered_model(model.name, f"{new}.{model.name.partition('.')[2]}")
    if (experiment := mlflow.get_experiment_by_name(old)) is not None:
        mlflow.rename_experiment(experiment.experiment_id, new)
