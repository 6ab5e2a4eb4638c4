"""Tables: commit by manifest, determinism, streaming, readability from outside, and a disk that fills up."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from respect_core.schemas import FEEDBACK_SCHEMA
from respect_core.store import manifests, parts, tables
from respect_core.store.base import Store, StoreError
from respect_core.store.manifests import (
    ChangedError,
    Input,
    Part,
    Partition,
    TableError,
    partitions,
    read_manifest,
    table_input,
)
from respect_core.store.open import open_store
from respect_core.store.parts import SCHEMAS
from respect_core.store.tables import iter_batches, read_table, write_partition


def feedback(round: int = 5, variant: str = "b-fft", rows: int = 3, label: int = 1) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "interaction_id": f"g{number}",
                "round": round,
                "variant": variant,
                "turn": 0,
                "decoder": "binary",
                "label": label,
                "score": 0.5,
                "low_margin": False,
                "decoder_model": "m",
                "decoder_revision": "r",
                "prompt_hash": "p",
                "thresholds": "{}",
            }
            for number in range(rows)
        ],
        schema=FEEDBACK_SCHEMA,
    )


def contents(store: Store) -> dict[str, bytes]:
    return {key: store.read(key) for key in store.sizes()}


def test_write_then_read(store: Store) -> None:
    first, second = feedback(4, "b-fft"), feedback(5, "t-kto", rows=2, label=-1)
    source = Input(key="x", size=1, sha256="00")
    manifest = write_partition(
        store, "feedback", 4, "b-fft", first, inputs=[source], counts={"positive": 3}, metadata={"margin": 0.1}
    )
    write_partition(store, "feedback", 5, "t-kto", second.to_batches())
    assert read_table(store, "feedback") == pa.concat_tables([first, second])
    assert read_table(store, "feedback", rounds=[5]) == second
    assert read_table(store, "feedback", variants=["b-fft"]) == first
    assert read_table(store, "feedback", rounds=[4], variants=["t-kto"]).num_rows == 0
    assert partitions(store, "feedback") == [(4, "b-fft"), (5, "t-kto")]
    assert read_manifest(store, "feedback", 4, "b-fft") == manifest
    assert read_manifest(store, "feedback", 9, "b-fft") is None
    assert (manifest.rows, manifest.counts) == (3, {"positive": 3})
    assert manifest.parts[0].inputs == (source,)
    assert table_input(store, "feedback", 4, "b-fft").key == "feedback/round=4/variant=b-fft/_manifest.json"


def test_columns(store: Store) -> None:
    write_partition(store, "feedback", 5, "b-fft", feedback())
    table = read_table(store, "feedback", columns=["label", "variant"])
    assert table.column_names == ["label", "variant"]
    assert table.to_pylist() == [{"label": 1, "variant": "b-fft"}] * 3
    assert read_table(store, "feedback", columns=["round"]).to_pylist() == [{"round": 5}] * 3
    with pytest.raises(TableError, match="no column 'target'; it has interaction_id"):
        read_table(store, "feedback", columns=["target"])
    with pytest.raises(TableError, match="table 'nonsense' is unknown; use one of turns"):
        read_table(store, "nonsense")


def test_same_contents_same_bytes(store: Store, new_store) -> None:
    other = new_store()
    write_partition(store, "feedback", 5, "b-fft", feedback(), metadata={"b": 1, "a": 2})
    write_partition(other, "feedback", 5, "b-fft", feedback().to_batches(), metadata={"a": 2, "b": 1})
    assert contents(store) == contents(other)


def test_replacing_a_partition_removes_the_old_part(store: Store) -> None:
    write_partition(store, "feedback", 5, "b-fft", feedback(label=1))
    write_partition(store, "feedback", 5, "b-fft", feedback(label=-1))
    assert set(read_table(store, "feedback")["label"].to_pylist()) == {-1}
    assert len(store.keys("feedback/")) == 2


def test_killed_before_the_commit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write_partition(store, "feedback", 5, "b-fft", feedback(label=1))
    before = read_table(store, "feedback")

    def killed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tables, "commit", killed)
        write_partition(store, "feedback", 5, "b-fft", feedback(label=-1))
    assert len(store.keys("feedback/")) == 3, "the new part is there, but nothing names it"
    assert read_table(store, "feedback") == before
    write_partition(store, "feedback", 5, "b-fft", feedback(label=-1))
    assert len(store.keys("feedback/")) == 2
    assert set(read_table(store, "feedback")["label"].to_pylist()) == {-1}


def _part(store: Store, table: pa.Table) -> Part:
    """A part that is stored, and still to be committed."""
    with parts.new_part(store, "feedback", Partition(5, "b-fft")) as writer:
        writer.add_batch(table)
        return parts.put_part(store, writer)


def _labels(store: Store) -> set[int]:
    return set(read_table(store, "feedback")["label"].to_pylist())


def test_a_part_that_another_process_is_about_to_commit_stays(store: Store) -> None:
    part = _part(store, feedback(label=1))
    write_partition(store, "feedback", 5, "b-fft", feedback(label=-1))
    tables.commit(store, "feedback", Partition(5, "b-fft"), [part])
    assert _labels(store) == {1}
    assert len(store.keys("feedback/")) == 2


def test_a_part_that_nobody_committed_is_deleted_a_day_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _part(store, feedback(label=1))
    write_partition(store, "feedback", 5, "b-fft", feedback(label=-1))
    assert len(store.keys("feedback/")) == 3
    monkeypatch.setattr(tables, "LEFT_OVER", -60.0)
    write_partition(store, "feedback", 5, "b-fft", feedback(label=-1))
    assert len(store.keys("feedback/")) == 2 and _labels(store) == {-1}


def test_what_was_made_from_a_manifest_replaces_no_other(store: Store) -> None:
    first = write_partition(store, "feedback", 5, "b-fft", feedback(label=1))
    with pytest.raises(ChangedError, match="committed by another process"):
        write_partition(store, "feedback", 5, "b-fft", feedback(label=-1), replaces=None)
    assert _labels(store) == {1}
    write_partition(store, "feedback", 5, "b-fft", feedback(label=-1), replaces=first)
    assert _labels(store) == {-1}
    again = write_partition(store, "feedback", 5, "b-fft", feedback(label=-1), replaces=first)
    assert read_manifest(store, "feedback", 5, "b-fft") == again, "what is there already is as good as written"


def test_a_partition_that_is_replaced_while_it_is_read(store: Store) -> None:
    here = Partition(5, "b-fft")
    one, two, three = (_part(store, feedback(rows=rows)) for rows in (1, 2, 3))
    before = tables.commit(store, "feedback", here, [one, two])
    batches = iter_batches(store, "feedback")
    assert next(batches).num_rows == 1
    tables.commit(store, "feedback", here, [one, three], replaces=before)
    assert [batch.num_rows for batch in batches] == [3], "what was read is in the new one, too"
    batches = iter_batches(store, "feedback")
    assert next(batches).num_rows == 1
    write_partition(store, "feedback", 5, "b-fft", feedback(rows=4))
    with pytest.raises(ChangedError, match="read it again"):
        list(batches)


def test_readers_beside_a_writer_see_one_version_or_the_other(store: Store) -> None:
    here, done = Partition(5, "b-fft"), threading.Event()

    def write(label: int) -> None:
        tables.commit(store, "feedback", here, [_part(store, feedback(rows=rows, label=label)) for rows in (1, 2)])

    def read() -> list[list[int]]:
        seen = []
        while not done.is_set():
            seen.append(read_table(store, "feedback")["label"].to_pylist())
        return seen

    write(0)
    with ThreadPoolExecutor(1) as pool:
        seen = pool.submit(read)
        try:
            for label in [1, -1] * 8:
                write(label)
        finally:
            done.set()
        assert {tuple(labels) for labels in seen.result(60)} <= {(label,) * 3 for label in (0, 1, -1)}


def test_batches_are_bounded(store: Store) -> None:
    rows = 2 * tables.ROW_GROUP + 5
    write_partition(store, "feedback", 5, "b-fft", feedback(rows=rows))
    sizes = [batch.num_rows for batch in iter_batches(store, "feedback", batch_size=1000)]
    assert sum(sizes) == rows and max(sizes) <= 1000


def test_rows_that_do_not_fit(store: Store) -> None:
    with pytest.raises(TableError, match=r"round is 4 in a row of Partition\(round=5"):
        write_partition(store, "feedback", 5, "b-fft", feedback(round=4))
    with pytest.raises(TableError, match="column 'targets' is absent or not of its schema"):
        write_partition(store, "feedback", 5, "b-fft", feedback().append_column("targets", [["a"]] * 3))
    with pytest.raises(TableError, match="column 'score' is absent"):
        write_partition(store, "feedback", 5, "b-fft", feedback().drop_columns("score"))
    nulls = feedback().set_column(0, "interaction_id", pa.array(["a", None, "b"]))
    with pytest.raises(TableError, match="interaction_id"):
        write_partition(store, "feedback", 5, "b-fft", nulls)
    for variant in ("a/b", "", ".."):
        with pytest.raises(TableError, match="cannot name a partition"):
            write_partition(store, "feedback", 5, variant, feedback())
    assert store.keys() == []


def test_damage_is_named(store: Store) -> None:
    manifest = write_partition(store, "feedback", 5, "b-fft", feedback())
    folder = Partition(5, "b-fft").folder("feedback")
    store.put(folder + manifest.parts[0].path, b"PAR1 no longer")
    with pytest.raises(TableError, match=r"part-.*make it again"):
        read_table(store, "feedback")
    fields = json.loads(manifest.to_bytes())
    fields["schema_version"] = 9
    store.put(folder + manifests.MANIFEST, json.dumps(fields).encode())
    with pytest.raises(TableError, match=r"written under schema version 9, this release reads 1; make"):
        read_table(store, "feedback")
    fields["parts"] = "none"
    store.put(folder + manifests.MANIFEST, json.dumps(fields).encode())
    with pytest.raises(TableError, match=r"_manifest.json: field parts: .*make it again"):
        read_table(store, "feedback")


def test_what_an_earlier_release_wrote_is_read_with_the_later_columns_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, table = open_store(tmp_path), feedback()
    later = {"marked", "cut"}
    earlier = pa.schema([each for each in FEEDBACK_SCHEMA if each.name not in later], FEEDBACK_SCHEMA.metadata)
    with monkeypatch.context() as patch:
        patch.setitem(SCHEMAS, "feedback", earlier)
        write_partition(store, "feedback", 5, "b-fft", table.drop_columns(sorted(later)))
    assert read_table(store, "feedback").equals(table)
    assert read_table(store, "feedback", columns=["cut"])["cut"].null_count == table.num_rows


def test_other_readers(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write_partition(store, "feedback", 4, "b-fft", feedback(4))
    write_partition(store, "feedback", 5, "t-kto", feedback(5, "t-kto", label=-1))
    frame = pd.read_parquet(tmp_path / "feedback")
    assert sorted(frame.columns) == sorted(FEEDBACK_SCHEMA.names)
    assert frame.groupby(["round", "variant"], observed=True)["label"].sum().to_dict() == {
        (4, "b-fft"): 3,
        (5, "t-kto"): -3,
    }
    assert pq.read_table(tmp_path / "feedback", filters=[("variant", "=", "t-kto")]).num_rows == 3


def test_disk_full_while_writing_a_table(tmp_path: Path) -> None:
    """A limit on the file size stands in for the full disk: the write itself fails, inside the Parquet writer."""
    store = open_store(tmp_path)
    write_partition(store, "feedback", 5, "b-fft", feedback())
    before = contents(store)
    script = textwrap.dedent(
        """
        import resource, signal, sys
        import pyarrow as pa
        from respect_core.schemas import FEEDBACK_SCHEMA
        from respect_core.store.base import StoreError
        from respect_core.store.open import open_store
        from respect_core.store.tables import read_table, write_partition

        store = open_store(sys.argv[1])
        table = read_table(store, "feedback")
        ids = pa.array([str(hash((n, 1))) for n in range(60000)])
        rows = {f.name: pa.repeat(table[f.name][0], len(ids)) for f in FEEDBACK_SCHEMA} | {"interaction_id": ids}
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            write_partition(store, "feedback", 5, "b-fft", pa.table(rows, schema=FEEDBACK_SCHEMA))
        except StoreError as error:
            print(error)
        """
    )
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "no room to write" in result.stdout and "feedback/round=5/variant=b-fft/" in result.stdout, result
    assert contents(store) == before
    assert list(store.scratch.iterdir()) == []


def test_missing_bucket(s3_server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match="bucket 'absent' does not exist"):
        write_partition(open_store("s3://absent"), "feedback", 5, "b-fft", feedback())
