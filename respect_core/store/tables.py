"""Read and write partitioned Parquet tables in a store, committed by manifests.

A partition is ``<table>/round=5/variant=b-fft/``: files ``part-<hash>.parquet`` and ``_manifest.json``, which is
written last. Readers here go through the manifest, so they never see a half-written partition. The layout is Hive's
(round and variant are in the path, not in the files; the underscore hides the manifest), so that pandas, DuckDB,
Polars, Spark and others read a table's folder as it is.

Bytes are a function of the contents: no time stamps, sorted keys. Of several processes that write a partition at once,
one replaces the other's result, or gets a ChangedError (`commit`); neither deletes what the other still needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from respect_core.schemas import SCHEMA_VERSION
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
)
from respect_core.store.parts import PARTITIONED_BY, ROW_GROUP, new_part, put_part, schema_of
from respect_core.versions import code_version

LEFT_OVER = 24 * 3600.0  # seconds after which a file that is not committed counts as abandoned by its writer
ANY = "whatever is there"
_TRIES = 5  # attempts to read a table that keeps being replaced


# --- reading --------------------------------------------------------------------------------------------------


def iter_batches(
    store: Store,
    name: str,
    rounds: Iterable[int] | None = None,
    variants: Iterable[str] | None = None,
    columns: Sequence[str] | None = None,
    batch_size: int = ROW_GROUP,
) -> Iterator[pa.RecordBatch]:
    """Yield a table's rows, at most `batch_size` at a time, by round, variant and the order in which they were written.

    Raises:
        TableError: an unknown table or column, or a file that is missing or differs from its manifest.
        ChangedError: another process replaced rows that had been read already.
    """
    schema = _select(name, columns)
    for partition in partitions(store, name, rounds, variants):
        yield from _partition_batches(store, name, partition, schema.names, batch_size)


def _partition_batches(
    store: Store, name: str, partition: Partition, columns: Sequence[str], batch_size: int
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a partition; where it was replaced meanwhile, continue with the parts that replaced it."""
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
    """Read the rows of `iter_batches` into one table, empty where no partition matches. Raises as that does.

    A table that is replaced during the read is read again, a few times.
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
) -> Iterator[pa.RecordBatch]:
    """Read the rows of one part. Raises TableError as `iter_batches` does, and ChangedError where it is missing."""
    try:
        source = store.open(partition.folder(name) + part.path)
    except MissingKeyError as error:
        raise ChangedError(str(error)) from None
    return _read_part(store, name, partition, part, source, columns, ROW_GROUP)


def _read_part(
    store: Store,
    name: str,
    partition: Partition,
    part: Part,
    source: BinaryIO,
    columns: Sequence[str] | None,
    batch_size: int,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of an open part, and close it."""
    schema = _select(name, columns)
    stored = [field.name for field in schema if field.name not in PARTITIONED_BY]
    where = f"{store.uri}/{partition.folder(name)}{part.path}"
    with closing(source):
        try:
            file = pq.ParquetFile(source)
            if file.metadata.num_rows != part.rows:
                raise TableError(f"{where}: {file.metadata.num_rows} rows, but the manifest says {part.rows}")
            # A nullable column that a later release added is null in files of earlier ones.
            later = [field for field in schema if field.nullable and field.name not in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size, columns=stored):
                absent = {name: pa.repeat(value, batch.num_rows) for name, value in partition._asdict().items()}
                absent |= {field.name: pa.nulls(batch.num_rows, field.type) for field in later}
                arrays = [absent.get(field.name) for field in schema]
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
    *,
    replaces: Manifest | str | None = ANY,
) -> Manifest:
    """Make these parts the partition, and delete its former ones.

    Args:
        replaces: the manifest that `parts` were made from; None where the partition was never committed, ANY for parts
            that do not depend on it.

    Raises:
        ChangedError: the partition is no longer `replaces`. Nothing was committed.
    """
    manifest = Manifest(
        table=name,
        round=partition.round,
        variant=partition.variant,
        code_version=code_version(),
        parts=tuple(parts),
    )
    folder, data = partition.folder(name), manifest.to_bytes()
    while True:
        current = store.read_version(folder + MANIFEST)
        before = _parse(current[0]) if current else None
        if replaces != ANY and before not in (replaces, manifest):
            raise ChangedError(f"{store.uri}/{folder}: committed by another process meanwhile; do it again")
        if (current and current[0] == data) or store.put_if(folder + MANIFEST, data, current[1] if current else None):
            break

    def keys_in_use() -> set[str]:
        latest = read_manifest(store, name, *partition)
        return {folder + part.path for part in latest.parts} if latest else set()

    sweep(store, folder + "part-", {folder + part.path for part in before.parts} if before else (), keys_in_use)
    return manifest


def _parse(data: bytes) -> Manifest | None:
    """Parse a manifest that is about to be replaced; return None where it is damaged."""
    try:
        return Manifest.model_validate_json(data)
    except ValidationError:
        return None


def sweep(store: Store, prefix: str, replaced: Collection[str], named: Callable[[], set[str]]) -> None:
    """Delete files that are no longer in use: replaced ones, and those that were never committed within a day.

    Files that another process is about to commit stay, as do those of a killed one, for a day.

    Args:
        replaced: keys that the former manifest named.
        named: returns the keys that are in use.
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
    """Replace a partition with these rows; a repeat with the same rows, inputs and notes changes nothing.

    Memory holds one batch or row group. `counts` and `metadata` must be JSON and free of time stamps. `replaces` is as
    in `commit`, which raises ChangedError.

    Raises:
        TableError: rows that do not fit the table's schema or the partition.
        StoreError: the store cannot be written, or the disk is full; the former contents stay readable.
    """
    partition = Partition(round, variant)
    with new_part(store, name, partition) as writer:
        for batch in data.to_batches(ROW_GROUP) if isinstance(data, pa.Table) else data:
            writer.add_batch(batch)
        part = put_part(store, writer, inputs, counts, metadata)
    return commit(store, name, partition, [part], replaces=replaces)
