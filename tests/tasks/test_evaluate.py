"""Comparing policies turn by turn, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from samples import game

from respect_core.interaction import TRAINING_SET_SCHEMA, turn_rows
from respect_core.store import Store, open_store
from respect_core.tables import write_partition
from tasks import game_sets
from tasks.evaluate import _require_not_chosen_on, _require_unseen, compare
from tasks.references import EvaluatedRef, RegisteredRef


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
def learned(tmp_path: Path) -> Store:
    """The seed policy learned from g0, b-fft from g5 in round 5 and from g6 in round 6."""
    store = open_store(tmp_path / "store")
    _learn(store, 0, "seed", ["g0"])
    _learn(store, 5, "b-fft", ["g5"])
    _learn(store, 6, "b-fft", ["g6"])
    return store


def _learn(store: Store, round: int, variant: str, names: Sequence[str]) -> None:
    rows = [row for name in names for row in turn_rows(game(name, round, variant))]
    kept = [{name: row.get(name, "round") for name in TRAINING_SET_SCHEMA.names} | {"label": 1} for row in rows]
    write_partition(store, "training_sets", round, variant, pa.Table.from_pylist(kept, schema=TRAINING_SET_SCHEMA))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("g0", "seed learned from 1 games of 'people', such as g0 in round 0"),
        ("g5", "b-fft learned from 1 games of 'people', such as g5 in round 5"),
        ("g6", "b-fft learned from 1 games of 'people', such as g6 in round 6"),
    ],
)
def test_games_learned_from_in_any_round_so_far_are_refused(learned: Store, name: str, message: str) -> None:
    game_sets.write(learned, "people", [game("new"), game(name)])
    with pytest.raises(ValueError, match=message):
        _require_unseen(learned, 6, ["seed", "b-fft"], "people")


def test_games_of_later_rounds_and_of_others_are_not_refused(learned: Store) -> None:
    game_sets.write(learned, "people", [game("g6")])
    _require_unseen(learned, 5, ["seed", "b-fft"], "people")
    _require_unseen(learned, 6, ["seed", "t-rl"], "people")


def test_the_set_that_chose_the_checkpoints_is_refused_by_its_games(learned: Store) -> None:
    game_sets.write(learned, "validation", [game("v")])
    game_sets.write(learned, "people", [game("new"), game("v")])
    with pytest.raises(ValueError, match=r"checkpoint of b-fft was chosen by 1 games of 'people'.* such as v"):
        _require_not_chosen_on(learned, {"seed": "gone", "b-fft": "validation"}, "people")
    _require_not_chosen_on(learned, {"seed": "gone", "b-fft": "other"}, "people")
