"""Comparing policies turn by turn, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from samples import game

from respect_core.log.records import turn_rows
from respect_core.release import lineage
from respect_core.schemas import TRAINING_SET_SCHEMA
from respect_core.store.base import Store
from respect_core.store.manifests import Partition
from respect_core.store.tables import write_partition
from respect_core.training_data import curated
from tasks.registry import registry
from tasks.release.evaluate import compare, require_not_chosen_on, require_unseen
from tasks.support.references import EvaluatedRef, RegisteredRef
from tasks.support.workspace import Workspace, workspace


def _evaluated(variant: str, *right: bool) -> EvaluatedRef:
    policy = RegisteredRef(variant=variant, model=f"respect.{variant}", version="1", run_id="r", adapter_hash="h")
    keys = [("g1", 0), ("g1", 1), ("g2", 2)]
    turns = [(*key, each) for key, each in zip(keys, right, strict=True)]
    return EvaluatedRef(policy=policy, turns=turns, illegal_actions=1, seconds=0.0)


def test_exact_match_difference_and_chance_by_hand() -> None:
    """The sample game: select C; deselect C select D; select A."""
    logs = [game("g1"), game("g2")]
    result = compare(logs, [_evaluated("seed", True, False, False), _evaluated("b-fft", True, True, False)])
    assert (result["games"], result["turns"]) == (2, 3)
    assert result["policies"]["seed"]["exact_match"] == pytest.approx(1 / 3)
    assert result["policies"]["b-fft"]["exact_match"] == pytest.approx(2 / 3)
    assert result["policies"]["b-fft"]["over_seed"]["exact_match"] == pytest.approx(1 / 3)
    assert result["policies"]["seed"]["over_seed"]["exact_match"] == 0
    assert result["chance"]["single click"]["exact_match"] == pytest.approx((0.1 + 0 + 0.1) / 3)
    assert result["chance"]["kind and number"]["exact_match"] == pytest.approx((1 / 10 + 1 / 9 + 1 / 9) / 3)


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """b-fft/1 learned from g5 in round 5; b-fft/2 goes on from it and b-fft/3 does not, and both learned from g6."""
    made = workspace(tmp_path)
    _keep(made.open(), 1, 5, "g5", parent=None)
    _keep(made.open(), 2, 6, "g6", parent="respect.b-fft/1")
    _keep(made.open(), 3, 6, "g6", parent=None)
    return made


def _train(store: Store, round: int, names: Sequence[str]) -> str:
    """Write a training set of these games; returns its data hash."""
    rows = [row for name in names for row in turn_rows(game(name, round, "b-fft"))]
    kept = [{name: row.get(name, "round") for name in TRAINING_SET_SCHEMA.names} | {"label": 1} for row in rows]
    table = pa.Table.from_pylist(kept, schema=TRAINING_SET_SCHEMA)
    return lineage.data_hash(write_partition(store, "training_sets", round, "b-fft", table))


def _keep(store: Store, number: int, round: int, name: str, parent: str | None) -> None:
    described, rows = lineage.describe(
        store,
        f"respect.b-fft/{number}",
        Partition(round, "b-fft"),
        None,
        run_id="run",
        adapter_hash="adapter",
        parent=parent,
        continued=parent is not None,
        data_hash=_train(store, round, [name]),
    )
    lineage.write(store, described, rows)


def test_games_that_a_version_learned_from_are_refused_whatever_became_of_its_training_set(place: Workspace) -> None:
    _train(place.open(), 5, ["another"])  # the round was run again since
    curated.write(place.open(), "people", [game("new"), game("g5")])
    with pytest.raises(
        ValueError, match=r"respect\.b-fft/1 learned from 1 games of 'people', such as g5: name another set"
    ):
        require_unseen(place, "respect.b-fft/1", "people")


def test_games_that_its_weights_go_on_from_are_refused_too_and_others_are_not(place: Workspace) -> None:
    curated.write(place.open(), "people", [game("new"), game("g5")])
    with pytest.raises(ValueError, match=r"b-fft/2 continues respect\.b-fft/1, which learned from 1 games of 'people'"):
        require_unseen(place, "respect.b-fft/2", "people")
    require_unseen(place, "respect.b-fft/3", "people")  # of the same variant, but from the beginning
    curated.write(place.open(), "people", [game("g6")])
    require_unseen(place, "respect.b-fft/1", "people")  # of a later round


def test_a_version_is_not_evaluated_where_nobody_knows_what_it_learned_from(place: Workspace, tmp_path: Path) -> None:
    """Registered without a lineage, and its training set is no longer the same; while it was the same, it was told."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    data_hash = _train(place.open(), 7, ["g7"])
    for number in (1, 2):
        tags = {"variant": "b-fft", "round": 7, "adapter_hash": f"adapter-{number}", "data_hash": data_hash}
        run_id = registry.start_run(place, "b-fft round 7")
        registry.register_adapter(place, run_id, "t-rl", adapter, tags=tags, metrics={}, step=7)
    curated.write(place.open(), "people", [game("g7")])
    with pytest.raises(ValueError, match=r"respect\.t-rl/1 learned from 1 games of 'people', such as g7"):
        require_unseen(place, "respect.t-rl/1", "people")
    _train(place.open(), 7, ["another"])
    with pytest.raises(ValueError, match=r"its training set .* is no longer the same, so what it learned from cannot"):
        require_unseen(place, "respect.t-rl/2", "people")


def test_the_set_that_chose_a_checkpoint_is_refused_by_its_games(place: Workspace, tmp_path: Path) -> None:
    """So is the one that chose the weights that a version continues: b-fft/2 was chosen by others than b-fft/1."""
    store, adapter = place.open(), tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    for number, validation in enumerate(("validation", "mine", "mine"), start=1):
        tags = {"variant": "b-fft", "round": 5, "adapter_hash": str(number), "data_hash": "", "validation": validation}
        run_id = registry.start_run(place, f"b-fft {number}")
        registry.register_adapter(place, run_id, "b-fft", adapter, tags=tags, metrics={}, step=number)
    curated.write(store, "validation", [game("v")])
    curated.write(store, "people", [game("new"), game("v")])
    for version in (1, 2):
        with pytest.raises(ValueError, match=r"of respect\.b-fft/1 was chosen by 1 games of 'people'.* such as v"):
            require_not_chosen_on(place, f"respect.b-fft/{version}", "people")
    require_not_chosen_on(place, "respect.b-fft/3", "people")
    curated.write(store, "mine", [game("new")])
    with pytest.raises(ValueError, match=r"of respect\.b-fft/3 was chosen by 1 games of 'people'.* in 'mine' too"):
        require_not_chosen_on(place, "respect.b-fft/3", "people")
