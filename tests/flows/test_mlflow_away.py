"""Registration outlasts an MLflow server that is killed, and leaves nothing half done, also where it gives up."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow_server import MlflowServer
from prefect import flow
from samples import game, with_images

from respect_core.model.base import adapter_hash
from respect_core.profiles import tiny
from respect_core.training_data import curated
from respect_core.variants import SEED
from tasks.registry import registry
from tasks.registry.register import close_round, open_round, register_variant
from tasks.round.subsample import seed_training_set
from tasks.support import retries
from tasks.support.references import ExportedRef, RegisteredRef, SelectedRef, TrainedRef
from tasks.support.workspace import Workspace, workspace

SECONDS = 2.0  # that MLflow is away but in the slow test; it takes as long again and more to start
EAGER: dict[str, Any] = {"retries": 150}


@pytest.fixture
def server(tmp_path: Path, free_port: int) -> Iterator[MlflowServer]:
    made = MlflowServer(tmp_path, free_port)
    made.start()
    yield made
    made.kill()


@pytest.fixture
def place(server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Requests are tried once, so that what is tested are the tasks' own tries."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("RESPECT_STORE", raising=False)
    made = workspace(tmp_path / "root")
    curated.write(with_images(made.open()), curated.D0, [game(f"d{number}") for number in range(3)])
    curated.write(made.open(), curated.VALIDATION, [game("v")])
    return made


@pytest.fixture
def trained(place: Workspace) -> SelectedRef:
    """What a training leaves."""
    seed = place.scratch / "seed=0"
    adapter = seed / "step-2"
    (seed / "processor").mkdir(parents=True)
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (seed / "processor" / "tokenizer.json").write_text("{}")
    (seed / "history.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n")
    (seed / "result.json").write_text(json.dumps({"checkpoints": [{"step": 2}]}))
    return SelectedRef(
        variant=SEED,
        seed=0,
        step=2,
        exact_match=0.5,
        sampled_match=0.4,
        validation_turns=8,
        illegal_actions=0,
        adapter=adapter,
        adapter_hash=adapter_hash(adapter),
        trained=[TrainedRef(variant=SEED, seed=0, directory=seed, seconds=1.0)],
    )


@flow
def learning(
    place: Workspace, trained: SelectedRef, patience: dict[str, Any], between: Callable[[], None]
) -> RegisteredRef:
    """A round around a training that is done. `between` is called before the registration."""
    exported = ExportedRef(round=0, variants=[SEED], games=3, turns=9, turns_with_followup=6, set_aside=0, seconds=1.0)
    profile = tiny()
    run_id = open_round(place, 0, profile, exported)
    training_set = seed_training_set(place, profile)
    between()
    try:
        register = register_variant.with_options(**patience)
        registered = register(place, run_id, profile, training_set, trained, "validation")
    except BaseException as error:
        close_round.with_options(**patience)(place, run_id, {SEED: str(error)}, "FAILED")
        raise
    close_round(place, run_id, {})
    return registered


def _require_whole(place: Workspace, runs: dict[str, int]) -> None:
    """One version, the candidate, of a model that is ready; no run or model that is open; so many runs by status."""
    mlflow = MlflowClient(tracking_uri=place.tracking_uri)
    experiment = registry.experiment_id(place)
    [version] = registry.versions(place, SEED)
    assert registry.aliases(place, registry.model_name(SEED)) == {registry.CANDIDATE: str(version.version)}
    files = registry.download(place, version)
    assert adapter_hash(files) == version.tags["adapter_hash"]
    statuses = [run.info.status for run in mlflow.search_runs([experiment])]
    assert {status: statuses.count(status) for status in statuses} == runs
    models = mlflow.search_logged_models([experiment])
    assert [model.source_run_id for model in models if model.status == LoggedModelStatus.READY] == [version.run_id]
    assert not [model for model in models if model.status == LoggedModelStatus.PENDING]
    assert mlflow.get_run(str(version.run_id)).info.status == "FINISHED"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("away", "patience", "delays"),
    [(SECONDS, EAGER, [1.0]), pytest.param(60, {}, retries.DELAYS, marks=pytest.mark.slow, id="a minute")],
)
def test_registration_outlasts_an_mlflow_that_is_killed_before_it(
    prefect_server: None,
    server: MlflowServer,
    place: Workspace,
    trained: SelectedRef,
    away: float,
    patience: dict[str, Any],
    delays: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retries, "DELAYS", delays)
    back = threading.Timer(away, server.start)

    def interrupt() -> None:
        server.kill()
        back.start()

    assert learning(place, trained, patience, interrupt).model == "respect.seed"
    back.join()
    _require_whole(place, {"FINISHED": 3})  # the round, the variant, its seed


@pytest.mark.timeout(1800)
def test_what_an_attempt_left_in_its_middle_is_ended_by_the_next(
    prefect_server: None, server: MlflowServer, place: Workspace, trained: SelectedRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "DELAYS", [1.0])
    whole, interrupted = MlflowClient.log_model_artifacts, []

    def log_model_artifacts(client: MlflowClient, *arguments: Any) -> Any:
        if not interrupted:
            server.kill()
            back = threading.Timer(SECONDS, server.start)
            back.start()
            interrupted.append(back)
        return whole(client, *arguments)

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", log_model_artifacts)
    learning(place, trained, EAGER, lambda: None)
    interrupted[0].join()
    _require_whole(place, {"FINISHED": 4, "KILLED": 1})  # the first attempt was through with its seed


@pytest.mark.timeout(1800)
def test_an_mlflow_that_stays_away_fails_in_the_end_and_the_next_round_puts_it_right(
    prefect_server: None, server: MlflowServer, place: Workspace, trained: SelectedRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "DELAYS", [0.0])
    with pytest.raises(MlflowException, match=server.uri):
        learning(place, trained, {}, server.kill)
    server.start()
    assert not registry.versions(place, SEED)
    learning(place, trained, {}, lambda: None)
    _require_whole(place, {"FINISHED": 3})  # the round that could not be closed was gone on with
