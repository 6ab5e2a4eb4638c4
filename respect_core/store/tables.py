"""Partitioned Parquet tables in a store, committed by manifests.

A partition is ``<table>/round=5/variant=b-fft/``: files ``part-<hash>.parquet`` and ``_manifest.json``, which is
written last. Readers here go through the manifest, so they never see a half-written partition; the layout is the
one of Hive (round and variant stand in the path, not in the files; the underscore hides the manifest), so that
pandas, DuckDB, Polars, Spark and the rest read the folder of a table as it is.

Bytes are a function of the contents: no time stamps, sorted keys. Of several processes that write a partition at once,
one replaces what the other made, or is told so (`commit`); neither deletes what the other still needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from respect_core.schemas import (
    SCHEMA_VERSION,
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
from respect_core.store.parts import PARTITIONED_BY, ROW_GROUP, SCHEMAS, PartWriter, new_part, put_part, schema_of
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

LEFT_OVER = 24 * 3600.0  # seconds after which no process can still be about to commit a file that it wrote
ANY = "whatever is there"
_TRIES = 5  # of reading a table that is replaced again and again


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
    stored = [field.name for field in schema if field.name not in PARTITIONED_BY]
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


def _select(name: str, columns: Sequence[str] | None) -> pa.Schema:
    schema = schema_of(name)
    if columns is None:
        return schema
    unknown = [column for column in columns if column not in schema.names]
    if unknown:
        raise TableError(f"table {name!r} has no column {unknown[0]!r}; it has {', '.join(schema.names)}")
    return pa.schema([schema.field(column) for column in columns], metadata=schema.metadata)


# --- writing --------------------------------------------------------------------------------------------------


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
