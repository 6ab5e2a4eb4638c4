"""What adapters learned from, on a directory and on a real S3 server."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import game, with_images

from respect_core.log.export import export
from respect_core.log.log import append_logs
from respect_core.log.records import turn_rows
from respect_core.release import lineage
from respect_core.release.lineage import Learned, LineageError
from respect_core.schemas import TRAINING_SET_SCHEMA
from respect_core.store.base import Store
from respect_core.store.manifests import Input, Partition, read_manifest, table_input
from respect_core.store.tables import write_partition

ALICE, BOB = "a" * 16, "b" * 16
D0 = Input(key="game_sets/d0.jsonl", size=1, sha256="d0")


@pytest.fixture
def exported(store: Store) -> Store:
    """Round 5 of b-fft: games of Alice (g1) and Bob (g2), in the log and in the turns table."""
    append_logs(with_images(store), [game("g1", user=ALICE), game("g2", user=BOB)])
    export(store, 5)
    return store


def _train(store: Store, round: int, names: Sequence[str], labels: Sequence[int | None], **changes: str) -> str:
    """Write a training set of these games, one label a turn; returns its data hash."""
    rows = []
    for name in names:
        for row, label in zip(turn_rows(game(name, round)), labels, strict=True):
            rows.append({key: row.get(key) for key in TRAINING_SET_SCHEMA.names} | {"label": label, "source": "round"})
    rows = [row | changes for row in rows]
    table = pa.Table.from_pylist(rows, schema=TRAINING_SET_SCHEMA)
    inputs = [table_input(store, "turns", 5, "b-fft")]
    return lineage.data_hash(write_partition(store, "training_sets", round, "b-fft", table, inputs=inputs))


def _keep(
    store: Store, number: int, round: int, data_hash: str, parent: str | None = None, continued: bool = True
) -> str:
    version = f"respect.b-fft/{number}"
    described, rows = lineage.describe(
        store,
        version,
        Partition(round, "b-fft"),
        (D0, {"old": ALICE}),
        run_id="run",
        adapter_hash=f"adapter-{number}",
        parent=parent,
        continued=continued and parent is not None,
        data_hash=data_hash,
    )
    lineage.write(store, described, rows)
    return version


def test_a_version_leads_to_its_log(exported: Store) -> None:
    version = _keep(exported, 1, 5, _train(exported, 5, ["g1", "g2"], [1, -1, None]))
    found = lineage.read(exported, version)
    assert found is not None
    assert (found.version, found.round, found.adapter_hash, found.parent) == (version, 5, "adapter-1", None)
    assert found.training_set == table_input(exported, "training_sets", 5, "b-fft")
    turns, d0 = found.sources
    assert turns.input == table_input(exported, "turns", 5, "b-fft") and d0.input == D0
    (log,) = turns.logs
    assert hashlib.sha256(exported.read(log.key)).hexdigest() == log.sha256
    assert lineage.feedback_by_user(exported, version) == {ALICE: 2, BOB: 2}  # turns with a label
    with exported.open(lineage.key(version)) as file:
        assert pq.read_table(file).to_pylist()[0] == {
            "interaction_id": "g1",
            "turn": 0,
            "user": ALICE,
            "label": 1,
            "source": "round",
            "address_prefix": None,
        }


def test_what_is_kept_outlives_the_tables_and_is_not_replaced(exported: Store) -> None:
    first = _train(exported, 5, ["g1"], [1, 1, None])
    version = _keep(exported, 1, 5, first)
    kept = exported.read(lineage.key(version))
    second = _train(exported, 5, ["g2"], [1, 1, None])
    assert first != second
    _keep(exported, 1, 5, second)
    assert exported.read(lineage.key(version)) == kept
    changed = r"respect\.b-fft/2: its training set .* is no longer the same.*run its round"
    with pytest.raises(LineageError, match=changed):
        _keep(exported, 2, 5, first)
    with pytest.raises(LineageError, match="is gone"):
        _keep(exported, 2, 6, first)


def test_from_a_turn_or_a_user_to_every_version(exported: Store) -> None:
    one = _keep(exported, 1, 5, _train(exported, 5, ["g1"], [1, None, None]))
    two = _keep(exported, 2, 6, _train(exported, 6, ["g2"], [1, -1, None]), parent=one)
    ten = _keep(exported, 10, 7, _train(exported, 7, ["g2"], [1, -1, None]), parent=two)
    _keep(exported, 11, 8, _train(exported, 8, ["g2"], [1, 1, None]), parent=ten, continued=False)

    assert lineage.versions(exported)[-2:] == [ten, "respect.b-fft/11"]
    assert lineage.learned_from(exported, interaction_id="g1", turn=0) == [
        Learned(one, (("g1", 0, 1, "round"),)),
        Learned(two, through=one),
        Learned(ten, through=one),
    ]
    by_user = lineage.learned_from(exported, user=BOB)
    assert [(each.version, len(each.turns)) for each in by_user] == [(two, 3), (ten, 3), ("respect.b-fft/11", 3)]
    assert lineage.learned_from(exported, interaction_id="g3", turn=0) == []
    with pytest.raises(LineageError, match="name a turn"):
        lineage.learned_from(exported)


def test_copies_of_a_rehearsed_game_count_as_the_game(exported: Store) -> None:
    version = _keep(exported, 1, 5, _train(exported, 5, ["old~undo3"], [None, None, 1], source="undo"))
    assert lineage.learned_from(exported, interaction_id="old", turn=2) == [
        Learned(version, (("old~undo3", 2, 1, "undo"),))
    ]
    assert [each.version for each in lineage.learned_from(exported, user=ALICE)] == [version]
    assert not lineage.feedback_by_user(exported, version)  # curated


def test_tables_made_anew_since_training_are_named_by_the_hash_that_was_used(exported: Store) -> None:
    data_hash = _train(exported, 5, ["g1"], [1, 1, None])
    used = table_input(exported, "turns", 5, "b-fft")
    append_logs(exported, [game("g9", user=BOB)])
    export(exported, 5)
    found = lineage.read(exported, _keep(exported, 1, 5, data_hash))
    assert found is not None and found.sources[0].input == used and not found.sources[0].logs


def test_an_unreadable_lineage_is_named(store: Store) -> None:
    assert lineage.read(store, "respect.b-fft/1") is None
    store.put(lineage.key("respect.b-fft/1"), b"PAR1")
    with pytest.raises(LineageError, match=r"lineage/respect\.b-fft/1\.parquet: no lineage can be read"):
        lineage.read(store, "respect.b-fft/1")


def test_the_data_hash_is_that_of_the_parts(exported: Store) -> None:
    data_hash = _train(exported, 5, ["g1"], [1, 1, None])
    manifest = read_manifest(exported, "training_sets", 5, "b-fft")
    assert manifest is not None
    (part,) = manifest.parts
    assert data_hash == hashlib.sha256(f'["{part.sha256}"]'.encode()).hexdigest()
