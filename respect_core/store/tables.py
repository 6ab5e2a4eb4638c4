"""Partitioned Parquet tables in a store, committed by manifests.

A partition is ``<table>/round=5/variant=b-fft/``: files ``part-<hash>.parquet`` and ``_manifest.json``, which is
written last. Readers here go through the manifest, so they never see a half-written partition; the layout is the
one of Hive (round and variant stand in the path, not in the files; the underscore hides the manifest), so that
pandas, DuckDB, Polars, Spark and the rest read the folder of a table as it is.

Bytes are a function of the contents: no time stamps, sorted keys. Of several processes that write a partition at once,
one replaces what the other made, or is told so (`commit`); neither deletes what the other still needs.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from respect_core.schemas import (
    ANNOTATIONS_SCHEMA,
    FEEDBACK_SCHEMA,
    OUTCOMES_SCHEMA,
    SCHEMA_VERSION,
    TRAINING_SET_SCHEMA,
    TURNS_SCHEMA,
)
from respect_core.store.base import MissingKeyError, Store
from respect_core.store.manifests import (
    MANIFEST,
    ChangedError,
    Input,
    Manifest,
    Part,
    Partition,
    TableError,
    partitions,
    read_manifest,
    table_input,
)
from respect_core.versions import code_version

__all__ = [
    "ANY",
    "SCHEMAS",
    "ChangedError",
    "Input",
    "Manifest",
    "Part",
    "PartWriter",
    "Partition",
    "TableError",
    "commit",
    "iter_batches",
    "new_part",
    "part_batches",
    "partitions",
    "put_part",
    "read_manifest",
    "read_table",
    "sweep",
    "table_input",
    "write_partition",
]

SCHEMAS: dict[str, pa.Schema] = {
    schema.metadata[b"table"].decode(): schema
    for schema in (TURNS_SCHEMA, OUTCOMES_SCHEMA, FEEDBACK_SCHEMA, TRAINING_SET_SCHEMA, ANNOTATIONS_SCHEMA)
}
ROW_GROUP = 8192  # rows held in memory by a writer or a reader
LEFT_OVER = 24 * 3600.0  # seconds after which no process can still be about to commit a file that it wrote
ANY = "whatever is there"
_TRIES = 5  # of reading a table that is replaced again and again
_PARTITIONED_BY = ("round", "variant")


# --- reading --------------------------------------------------------------------------------------------------


def iter_batches(
    store: Store,
    name: str,
    rounds: Iterable[int] | None = None,
    variants: Iterable[str] | None = None,
    columns: Sequence[str] | None = None,
    batch_size: int = ROW_GROUP,
) -> Iterator[pa.RecordBatch]:
    """A table's rows, at most `batch_size` at a time, by round, variant and the order in which they were written.

    Raises:
        TableError: an unknown table or column, or a file that is gone or does not hold what its manifest says.
        ChangedError: another process replaced rows that had been read already.
    """
    schema = _select(name, columns)
    for partition in partitions(store, name, rounds, variants):
        yield from _partition_batches(store, name, partition, schema.names, batch_size)


def _partition_batches(
    store: Store, name: str, partition: Partition, columns: Sequence[str], batch_size: int
) -> Iterator[pa.RecordBatch]:
    """The rows of a partition. Where a part is gone because the partition was replaced, its successor's follow."""
    where, done = f"{store.uri}/{partition.folder(name)}", 0
    manifest: Manifest | None = None
    while True:
        before, manifest = manifest, read_manifest(store, name, *partition)
        parts = manifest.parts if manifest else ()
        if before and parts[:done] != before.parts[:done]:
            raise ChangedError(f"{where}: replaced by another process while it was read; read it again")
        if manifest and manifest.schema_version != SCHEMA_VERSION:
            raise TableError(
                f"{where}: written under schema version {manifest.schema_version}, "
                f"this release reads {SCHEMA_VERSION}; make the partition again"
            )
        for part in parts[done:]:
            try:
                source = store.open(partition.folder(name) + part.path)
            except MissingKeyError:
                if manifest == before:
                    raise TableError(
                        f"{where}{part.path}: the file is gone, but the manifest names it; run the stage again that "
                        "makes this table (for turns and outcomes: any round, or `respect report`), or restore the file"
                    ) from None
                break
            yield from _read_part(store, name, partition, part, source, columns, batch_size)
            done += 1
        else:
            return


def read_table(
    store: Store,
    name: str,
    rounds: Iterable[int] | None = None,
    variants: Iterable[str] | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """The rows of `iter_batches` in one table; no rows where no partition fits. Raises as that does.

    What is replaced while it is read is read again, a few times.
    """
    rounds = None if rounds is None else list(rounds)
    variants = None if variants is None else list(variants)
    for tries in range(_TRIES):
        try:
            return pa.Table.from_batches(iter_batches(store, name, rounds, variants, columns), _select(name, columns))
        except ChangedError:
            if tries == _TRIES - 1:
                raise
    raise AssertionError("unreachable")


def part_batches(
    store: Store,
    name: str,
    partition: Partition,
    part: Part,
    columns: Sequence[str] | None = None,
    batch_size: int = ROW_GROUP,
) -> Iterator[pa.RecordBatch]:
    """The rows of one part. Raises TableError as `iter_batches` does, and ChangedError where it is gone."""
    try:
        source = store.open(partition.folder(name) + part.path)
    except MissingKeyError as error:
        raise ChangedError(str(error)) from None
    return _read_part(store, name, partition, part, source, columns, batch_size)


def _read_part(
    store: Store,
    name: str,
    partition: Partition,
    part: Part,
    source: BinaryIO,
    columns: Sequence[str] | None,
    batch_size: int,
) -> Iterator[pa.RecordBatch]:
    """The rows of a part that was opened; closes it."""
    schema = _select(name, columns)
    stored = [field.name for field in schema if field.name not in _PARTITIONED_BY]
    where = f"{store.uri}/{partition.folder(name)}{part.path}"
    with closing(source):
        try:
            file = pq.ParquetFile(source)
            if file.metadata.num_rows != part.rows:
                raise TableError(f"{where}: {file.metadata.num_rows} rows, but the manifest says {part.rows}")
            # A column that came with a later release and may be null is null in what earlier ones wrote.
            later = [field for field in schema if field.nullable and field.name not in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size, columns=stored):
                fixed = {name: pa.repeat(value, batch.num_rows) for name, value in partition._asdict().items()}
                fixed |= {field.name: pa.nulls(batch.num_rows, field.type) for field in later}
                arrays = [fixed.get(field.name) for field in schema]
                yield pa.RecordBatch.from_arrays(
                    [
                        batch.column(field.name) if array is None else array.cast(field.type)
                        for field, array in zip(schema, arrays, strict=True)
                    ],
                    schema=schema,
                )
        except (pa.ArrowException, OSError, KeyError) as error:
            raise TableError(f"{where}: {error}; delete the partition's folder and make it again") from error


def _schema(name: str) -> pa.Schema:
    if name not in SCHEMAS:
        raise TableError(f"table {name!r} is unknown; use one of {', '.join(SCHEMAS)}")
    return SCHEMAS[name]


def _select(name: str, columns: Sequence[str] | None) -> pa.Schema:
    schema = _schema(name)
    if columns is None:
        return schema
    unknown = [column for column in columns if column not in schema.names]
    if unknown:
        raise TableError(f"table {name!r} has no column {unknown[0]!r}; it has {', '.join(schema.names)}")
    return pa.schema([schema.field(column) for column in columns], metadata=schema.metadata)


# --- writing --------------------------------------------------------------------------------------------------


class PartWriter:
    """Writes one file of a partition to a local path, a row group at a time."""

    def __init__(self, name: str, partition: Partition, path: Path) -> None:
        self._full = _schema(name)
        self._schema = pa.schema(
            [field for field in self._full if field.name not in _PARTITIONED_BY], metadata=self._full.metadata
        )
        self._name, self._partition, self._path = name, partition, path
        self._waiting: list[pa.Table] = []  # less than a row group
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self.rows = 0

    def add_batch(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Append a batch. Raises TableError unless it has the table's schema and this partition's round and variant."""
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        if sorted(table.column_names) != sorted(self._full.names):
            odd = sorted(set(table.column_names) ^ set(self._full.names)) or ["a repeated column"]
            raise TableError(
                f"table {self._name!r}: column {odd[0]!r} is absent or not of its schema; correct the rows"
            )
        try:
            table = table.select(self._full.names).cast(self._full)
        except (pa.ArrowException, ValueError) as error:
            raise TableError(f"table {self._name!r}: {error}; correct the column's type") from error
        for column, value in self._partition._asdict().items():
            odd_values = [each for each in table[column].unique().to_pylist() if each != value]
            if odd_values:
                raise TableError(f"table {self._name!r}: {column} is {odd_values[0]!r} in a row of {self._partition}")
        for field in self._schema:
            if not field.nullable and table[field.name].null_count:
                raise TableError(f"table {self._name!r}: {field.name} is null in a row; every row needs it")
        if table.num_rows:
            self._waiting.append(table.select(self._schema.names))
        self.rows += table.num_rows
        if sum(each.num_rows for each in self._waiting) >= ROW_GROUP:
            self._write(whole_groups=True)

    def close(self) -> None:
        """Write what is left and the footer."""
        if self._waiting:
            self._write()
        self._writer.close()

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            with suppress(pa.ArrowException, OSError):  # releases the file, which is thrown away
                self._writer.close()

    def _write(self, whole_groups: bool = False) -> None:
        """Write what waits, so that the file does not depend on how its rows were batched."""
        table = pa.concat_tables(self._waiting).combine_chunks()
        rows = table.num_rows // ROW_GROUP * ROW_GROUP if whole_groups else table.num_rows
        self._writer.write_table(table.slice(0, rows), row_group_size=ROW_GROUP)
        self._waiting = [table.slice(rows)] if rows < table.num_rows else []
        pa.default_memory_pool().release_unused()  # which is scattered over threads, and would grow with the table


@contextmanager
def new_part(store: Store, name: str, partition: Partition) -> Iterator[PartWriter]:
    """A writer to fill; its file goes to `scratch` and is gone at the end unless `put_part` stored it."""
    with store.spool() as path, store.errors(partition.folder(name)), PartWriter(name, partition, path) as writer:
        yield writer


def put_part(
    store: Store,
    writer: PartWriter,
    inputs: Sequence[Input] = (),
    counts: Mapping[str, int] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Part:
    """Close a writer and store its file under the hash of its contents. Nobody sees it before `commit`."""
    folder = writer._partition.folder(writer._name)
    with store.errors(folder):
        writer.close()
        with writer._path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    path = f"part-{sha256[:32]}.parquet"
    store.put_file(folder + path, writer._path)  # also where a killed process left it: it is of today then
    return Part(
        path=path,
        sha256=sha256,
        rows=writer.rows,
        inputs=tuple(inputs),
        counts=dict(counts or {}),
        metadata=dict(metadata or {}),
    )


def commit(
    store: Store,
    name: str,
    partition: Partition,
    parts: Sequence[Part],
    metadata: Mapping[str, Any] | None = None,
    *,
    replaces: Manifest | str | None = ANY,
) -> Manifest:
    """Make these parts the partition, and delete those that it consisted of before.

    Args:
        replaces: the manifest that `parts` were made from; None where the partition was never committed, ANY for parts
            that stand on their own.

    Raises:
        ChangedError: the partition is another than `replaces` by now. Nothing was committed.
    """
    manifest = Manifest(
        table=name,
        round=partition.round,
        variant=partition.variant,
        code_version=code_version(),
        parts=tuple(parts),
        metadata=dict(metadata or {}),
    )
    folder, data = partition.folder(name), manifest.to_bytes()
    while True:
        held = store.read_version(folder + MANIFEST)
        before = _parsed(held[0]) if held else None
        if replaces != ANY and before not in (replaces, manifest):
            raise ChangedError(f"{store.uri}/{folder}: committed by another process meanwhile; do it again")
        if (held and held[0] == data) or store.put_if(folder + MANIFEST, data, held[1] if held else None):
            break

    def named() -> set[str]:
        current = read_manifest(store, name, *partition)
        return {folder + part.path for part in current.parts} if current else set()

    sweep(store, folder + "part-", {folder + part.path for part in before.parts} if before else (), named)
    return manifest


def _parsed(data: bytes) -> Manifest | None:
    """A manifest that is about to be replaced; None where it is damaged."""
    try:
        return Manifest.model_validate_json(data)
    except ValidationError:
        return None


def sweep(store: Store, prefix: str, replaced: Collection[str], named: Callable[[], set[str]]) -> None:
    """Delete files that nobody can still name: replaced ones, and those that were written a day ago for nothing.

    What another process has written and is about to commit stays, and what a killed one left, for a day.

    Args:
        replaced: keys that the manifest before named.
        named: asks for the keys that are in use.
    """
    before = time.time() - LEFT_OVER
    old = {key for key, entry in store.entries(prefix).items() if key in replaced or entry.modified < before}
    if old:
        for key in sorted(old - named()):
            store.delete(key)


def write_partition(
    store: Store,
    name: str,
    round: int,
    variant: str,
    data: pa.Table | Iterable[pa.RecordBatch],
    *,
    inputs: Sequence[Input] = (),
    counts: Mapping[str, int] | None = None,
    metadata: Mapping[str, Any] | None = None,
    replaces: Manifest | str | None = ANY,
) -> Manifest:
    """Replace a partition by these rows; the same rows, inputs and notes again change nothing.

    Memory holds one batch or row group. `counts` and `metadata` must be JSON and free of time stamps. `replaces` is as
    in `commit`, which raises ChangedError.

    Raises:
        TableError: rows that do not fit the table's schema or the partition.
        StoreError: the store cannot be written, or the disk is full; what was there before stays readable.
    """
    partition = Partition(round, variant)
    with new_part(store, name, partition) as writer:
        for batch in data.to_batches(ROW_GROUP) if isinstance(data, pa.Table) else data:
            writer.add_batch(batch)
        part = put_part(store, writer, inputs, counts, metadata)
    return commit(store, name, partition, [part], replaces=replaces)
