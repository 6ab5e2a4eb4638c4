"""Rows of several tables, game by game."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

from reports import deployment, feedback

from respect_core.store import sorting
from respect_core.store.by_game import games
from respect_core.store.manifests import Partition

SEED = Partition(0, "seed")


def test_games_come_in_order_with_their_rows_of_every_table(tmp_path: Path) -> None:
    store = deployment(tmp_path)
    feedback(store, 0, "seed", [("g1", 1, 1), ("g0", 0, -1), ("g1", 0, -1), ("gone", 0, 1)])
    columns = {"turns": ["turn", "action"], "outcomes": ["success"], "feedback": ["turn", "label"]}
    found = dict(games(store, SEED, columns))
    assert list(found) == ["g0", "g1", "g2", "g3", "gone"]
    assert [row["turn"] for row in found["g1"]["turns"]] == [0, 1, 2, 3]
    assert [row["success"] for row in found["g1"]["outcomes"]] == [False]
    # Rows without a number keep the order of their table, and have their place in it.
    assert [(row["turn"], row["row"]) for row in found["g1"]["feedback"]] == [(1, 0), (1, 1), (0, 4), (0, 5)]
    assert found["g2"]["feedback"] == () and found["gone"]["turns"] == ()


def test_more_rows_than_memory_holds_are_the_same(tmp_path: Path) -> None:
    store, columns = deployment(tmp_path), {"turns": ["turn", "utterance"], "feedback": ["turn", "label"]}
    found = list(games(store, SEED, columns))
    sorted_groups = sorting.sorted_groups
    with patch(
        "respect_core.store.by_game.sorted_groups", lambda batches, by, scratch: sorted_groups(batches, by, scratch, 1)
    ):
        assert list(games(store, SEED, columns)) == found
