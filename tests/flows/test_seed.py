"""The seed policy is trained, chosen and registered again when what it was made from or chosen by is another.

The embedded model, a real Prefect server and MLflow on SQLite; workers run here, as tests/flows/here.py has them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from here import record_workers
from safetensors.torch import load_file, save_file
from small import smallest

from flows.dispatch import stages
from flows.seed import seed_policy
from respect_core import tiny
from respect_core.profiles import Profile
from respect_core.training_data import curated
from respect_core.variants import Variant
from tasks.compute import specs
from tasks.compute.places import Place
from tasks.compute.process import WorkerRefusedError
from tasks.games.people import prepare_game_sets
from tasks.registry import registry
from tasks.support.references import RegisteredRef, TrainingSetRef
from tasks.support.workspace import Workspace, workspace

pytestmark = pytest.mark.timeout(600)

PROFILE = smallest("tiny")
SEED_POLICY = RegisteredRef(variant="seed", model="respect.seed", version="1", run_id="run", adapter_hash="adapter")
DATA = TrainingSetRef(
    variant="seed",
    round=0,
    data_hash="data",
    train_turns=1,
    positives=1,
    negatives=0,
    negatives_used=0,
    rehearsal_turns=0,
    probabilities={},
)


@pytest.fixture
def workers() -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        yield record_workers(patch)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of everything that is sent to a pool, which nobody does."""
    asked: list[str] = []

    def on_pool(workspace: Workspace, deployment: str, key: str, *_: Any, **__: Any) -> None:
        asked.append(key)

    monkeypatch.setattr(stages, "on_pool", on_pool)
    return asked


@pytest.fixture
def base(tmp_path: Path) -> Profile:
    """A profile over a copy of the embedded model."""
    shutil.copytree(tiny.path(), tmp_path / "base")
    return replace(PROFILE, base=str(tmp_path / "base"))


def _change(base: Profile) -> None:
    """Other weights."""
    file = Path(base.base) / "model.safetensors"
    save_file({name: weight * 1.01 for name, weight in load_file(file).items()}, file, metadata={"format": "pt"})


def _replace_validation(place: Workspace) -> None:
    """The set keeps its name and loses a game."""
    store = place.open()
    curated.write(store, "validation", curated.read(store, "validation")[:-1])


def test_a_validation_set_replaced_under_its_name_chooses_anew(
    prefect_server: None, workers: list[str], tmp_path: Path
) -> None:
    place = workspace(tmp_path)
    first = seed_policy(place, PROFILE, "validation")
    assert seed_policy(place, PROFILE, "validation") == first and workers == ["train 0 seed"]
    _replace_validation(place)
    second = seed_policy(place, PROFILE, "validation")
    assert workers == ["train 0 seed"] * 2
    assert (first.version, second.version) == ("1", "2") and first.adapter_hash == second.adapter_hash
    stored = curated.stored(place.open(), "validation").sha256
    assert registry.named(place, "respect.seed/2").tags["validation_sha256"] == stored
    assert seed_policy(place, PROFILE, "validation") == second and len(workers) == 2


def test_another_base_model_under_the_same_name_has_a_seed_policy_of_its_own(
    prefect_server: None, workers: list[str], base: Profile, tmp_path: Path
) -> None:
    place = workspace(tmp_path / "root")
    first = seed_policy(place, base, "validation")
    assert seed_policy(place, base, "validation") == first and len(workers) == 1
    _change(base)
    second = seed_policy(place, base, "validation")
    assert len(workers) == 2 and second.version == "2" and second.adapter_hash != first.adapter_hash
    assert seed_policy(place, base, "validation") == second and len(workers) == 2


def test_a_seed_policy_that_another_set_chose_stands(prefect_server: None, workers: list[str], tmp_path: Path) -> None:
    place = workspace(tmp_path)
    first, store = seed_policy(place, PROFILE, "validation"), place.open()
    curated.write(store, "people", curated.read(store, "validation")[:-1])
    assert seed_policy(place, PROFILE, "people") == first and len(workers) == 1


def test_a_version_from_before_the_tags_is_found_and_gets_them(
    prefect_server: None, workers: list[str], tmp_path: Path
) -> None:
    place = workspace(tmp_path)
    first, mlflow = seed_policy(place, PROFILE, "validation"), registry.client(place)
    tags = registry.named(place, "respect.seed/1").tags
    for name in ("base_sha256", "validation_sha256"):
        mlflow.delete_model_version_tag("respect.seed", "1", name)
    assert seed_policy(place, PROFILE, "validation") == first and len(workers) == 1
    assert registry.named(place, "respect.seed/1").tags == tags
    _replace_validation(place)
    assert seed_policy(place, PROFILE, "validation").version == "2" and len(workers) == 2


def test_a_pool_is_asked_anew_where_the_validation_set_was_replaced(keys: list[str], tmp_path: Path) -> None:
    place = workspace(tmp_path)
    prepare_game_sets.fn(place, PROFILE, "validation")
    for _ in range(2):
        stages.train_on_pool.fn(place, PROFILE, DATA, "validation", None)
    _replace_validation(place)
    stages.train_on_pool.fn(place, PROFILE, DATA, "validation", None)
    assert keys[0] == keys[1] != keys[2]


def test_a_pool_is_asked_anew_where_the_base_model_was_replaced(keys: list[str], base: Profile, tmp_path: Path) -> None:
    place = workspace(tmp_path / "root")
    prepare_game_sets.fn(place, base, "validation")

    def ask() -> None:
        stages.train_on_pool.fn(place, base, DATA, "validation", None)
        stages.decode(place, base, 0, [Variant.B_RL], SEED_POLICY, on=Place.POOLS)

    for _ in range(2):
        ask()
    _change(base)
    ask()
    assert keys[:2] == keys[2:4]
    assert keys[0] != keys[4] and keys[1] != keys[5]


def test_a_worker_whose_base_model_is_another_refuses(prefect_server: None, base: Profile, tmp_path: Path) -> None:
    """As on a machine where another one was installed."""
    place = workspace(tmp_path / "root")
    with pytest.MonkeyPatch.context() as patch:
        record_workers(patch)
        patch.setattr(specs, "base_sha256", lambda _: "elsewhere")
        with pytest.raises(WorkerRefusedError, match=r"has other files here .* install the same on all machines"):
            seed_policy(place, base, "validation")
