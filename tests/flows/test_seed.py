"""The seed policy is trained, chosen and registered again when what it was made from or chosen by is another.

The embedded model, a real Prefect server and MLflow on SQLite; workers run here, as tests/flows/here.py has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from here import record_workers
from small import smallest

from flows import stages
from flows.seed import seed_policy
from tasks import game_sets, registry
from tasks.people import prepare_game_sets
from tasks.references import TrainingSetRef
from tasks.workspace import Workspace, workspace

pytestmark = pytest.mark.timeout(600)

PROFILE = smallest("tiny")
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


def _replace_validation(place: Workspace) -> None:
    """The set keeps its name and loses a game."""
    store = place.open()
    game_sets.write(store, "validation", game_sets.read(store, "validation")[:-1])


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
    stored = game_sets.stored(place.open(), "validation").sha256
    assert registry.named(place, "respect.seed/2").tags["validation_sha256"] == stored
    assert seed_policy(place, PROFILE, "validation") == second and len(workers) == 2


def test_a_seed_policy_that_another_set_chose_stands(prefect_server: None, workers: list[str], tmp_path: Path) -> None:
    place = workspace(tmp_path)
    first, store = seed_policy(place, PROFILE, "validation"), place.open()
    game_sets.write(store, "people", game_sets.read(store, "validation")[:-1])
    assert seed_policy(place, PROFILE, "people") == first and len(workers) == 1


def test_a_pool_is_asked_anew_where_the_validation_set_was_replaced(keys: list[str], tmp_path: Path) -> None:
    place = workspace(tmp_path)
    prepare_game_sets.fn(place, PROFILE, "validation")
    for _ in range(2):
        stages.train_on_pool.fn(place, PROFILE, DATA, "validation", None)
    _replace_validation(place)
    stages.train_on_pool.fn(place, PROFILE, DATA, "validation", None)
    assert keys[0] == keys[1] != keys[2]
