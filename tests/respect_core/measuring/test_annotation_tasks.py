"""Games drawn for annotation, and the order in which annotators see them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from samples import game, with_images

from respect_core.log.export import export
from respect_core.log.log import append_logs
from respect_core.log.records import Outcome
from respect_core.measuring.annotation_tasks import next_turn, put_tasks, read_tasks, sample, to_lines
from respect_core.store.base import Store
from respect_core.store.manifests import TableError
from respect_core.store.open import open_store

IDS = [f"g{number:02}" for number in range(30)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def play(store: Store, success: bool) -> Store:
    outcome = Outcome(targets=["image-A", "image-D"] if success else ["image-J"], success=success)
    append_logs(with_images(store), [game(each, outcome=outcome) for each in IDS])
    export(store, 5)
    return store


def test_a_sample_repeats_grows_and_hides_targets_and_outcomes(store: Store, tmp_path: Path) -> None:
    tasks = sample(play(store, success=True), 5, "b-fft", games=20, seed=1)
    assert len({task.interaction_id for task in tasks}) == 20
    assert [task.annotators for task in tasks] == [3] + [1] * 19  # 5%
    assert sample(store, 5, "b-fft", games=10, seed=1) == tasks[:10]
    assert {task.interaction_id for task in sample(store, 5, "b-fft", games=20, seed=2)} != {
        task.interaction_id for task in tasks
    }
    lost = play(open_store(tmp_path / "lost"), success=False)
    assert to_lines(sample(lost, 5, "b-fft", games=20, seed=1)) == to_lines(tasks)
    record = json.loads(to_lines(tasks).splitlines()[0])
    assert set(record) == {"interaction_id", "round", "variant", "annotators", "context", "turns"}
    assert record["turns"][1] == {
        "turn": 1,
        "state": "C",
        "utterance": "no, the other one",
        "action": "deselect C select D",
        "follow_up": "and a cup",
    }


def test_games_that_are_not_there(store: Store) -> None:
    with pytest.raises(TableError, match="no turns of round 5, variant 'b-fft'; import or export them first"):
        sample(store, 5, "b-fft")
    with pytest.raises(ValueError, match="a share between 0 and 1"):
        sample(store, 5, "b-fft", triple=1.5)


def test_each_game_goes_to_as_many_annotators_as_it_asks_for(store: Store) -> None:
    put_tasks(play(store, True), sample(store, 5, "b-fft", games=2))
    tasks = read_tasks(store)
    assert [task.annotators for task in tasks] == [3, 1]
    answered: set[tuple[int, str, str, int, str]] = set()
    order: dict[str, list[tuple[str, int]]] = {"a": [], "b": [], "c": [], "d": []}
    while any(next_turn(tasks, answered, who) for who in order):
        for who, seen in order.items():  # they work side by side
            found = next_turn(tasks, answered, who)
            if found:
                task, turn = found
                seen.append((task.interaction_id, turn.turn))
                answered.add((5, "b-fft", task.interaction_id, turn.turn, who))
    three, one = ([(task.interaction_id, turn) for turn in range(3)] for task in tasks)
    assert order == {"a": three, "b": three, "c": three, "d": one}


def test_a_damaged_task_is_named(store: Store) -> None:
    key = put_tasks(play(store, True), sample(store, 5, "b-fft", games=2))
    store.put(key, store.read(key).replace(b'"turn":1', b'"turn":"x"', 1))
    with pytest.raises(TableError, match=r"tasks.jsonl, line 1, field turns\[1\]\.turn: .*; sample again"):
        read_tasks(store)
