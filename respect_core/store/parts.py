"""Write the parts of a table: immutable Parquet files, named by their contents, that a manifest lists."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from respect_core.schemas import (
    ANNOTATIONS_SCHEMA,
    FEEDBACK_SCHEMA,
    OUTCOMES_SCHEMA,
    TRAINING_SET_SCHEMA,
    TURNS_SCHEMA,
)
from respect_core.store.base import Store
from respect_core.store.manifests import Input, Part, Partition, TableError

SCHEMAS: dict[str, pa.Schema] = {
    schema.metadata[b"table"].decode(): schema
    for schema in (TURNS_SCHEMA, OUTCOMES_SCHEMA, FEEDBACK_SCHEMA, TRAINING_SET_SCHEMA, ANNOTATIONS_SCHEMA)
}


ROW_GROUP = 8192  # rows held in memory by a writer or a reader


PARTITIONED_BY = ("round", "variant")


def schema_of(name: str) -> pa.Schema:
    """Return the schema of a table. Raises TableError for an unknown one."""
    if name not in SCHEMAS:
        raise TableError(f"table {name!r} is unknown; use one of {', '.join(SCHEMAS)}")
    return SCHEMAS[name]


class PartWriter:
    """A writer of one file of a partition to a local path, a row group at a time."""

    def __init__(self, name: str, partition: Partition, path: Path) -> None:
        self._full = schema_of(name)
        self._schema = pa.schema(
            [field for field in self._full if field.name not in PARTITIONED_BY], metadata=self._full.metadata
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
        """Write the remaining rows and the footer."""
        if self._waiting:
            self._write()
        self._writer.close()

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            with suppress(pa.ArrowException, OSError):  # only releases the file, which is discarded
                self._writer.close()

    def _write(self, whole_groups: bool = False) -> None:
        """Write the rows that wait, so that the file does not depend on how its rows were batched."""
        table = pa.concat_tables(self._waiting).combine_chunks()
        rows = table.num_rows // ROW_GROUP * ROW_GROUP if whole_groups else table.num_rows
        self._writer.write_table(table.slice(0, rows), row_group_size=ROW_GROUP)
        self._waiting = [table.slice(rows)] if rows < table.num_rows else []
        pa.default_memory_pool().release_unused()  # scattered over threads, it would grow with the table


@contextmanager
def new_part(store: Store, name: str, partition: Partition) -> Iterator[PartWriter]:
    """Yield a writer to fill; its file is in `scratch`, and deleted at the end unless `put_part` stored it."""
    with store.spool() as path, store.errors(partition.folder(name)), PartWriter(name, partition, path) as writer:
        yield writer


def put_part(
    store: Store,
    writer: PartWriter,
    inputs: Sequence[Input] = (),
    counts: Mapping[str, int] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Part:
    """Close a writer and store its file under the hash of its contents. Readers see it only after `commit`."""
    folder = writer._partition.folder(writer._name)
    with store.errors(folder):
        writer.close()
        with writer._path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    path = f"part-{sha256[:32]}.parquet"
    store.put_file(folder + path, writer._path)  # even where a killed process left it, so that `sweep` sees it as new
    return Part(
        path=path,
        sha256=sha256,
        rows=writer.rows,
        inputs=tuple(inputs),
        counts=dict(counts or {}),
        metadata=dict(metadata or {}),
    )
