"""Sort any number of rows in bounded memory: runs are sorted in memory and merged from files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

RUN = 65_536
"""Rows sorted at a time."""
BLOCK = 1_024
"""Rows of each run in memory while runs are merged."""


def sorted_groups(
    batches: Iterable[pa.RecordBatch], by: Sequence[str], scratch: Path | None = None, run: int = RUN
) -> Iterator[pa.Table]:
    """Yield all rows ordered by the columns `by`, nulls last; rows with the same first value are in the same table.

    Memory holds a run while runs are sorted, then a block of each run, or the largest group.

    Args:
        by: columns, of which the first has no nulls.
        scratch: folder for the files of runs, the system's by default. A single run needs no file.

    Raises:
        OSError: no room for the files.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix="respect-") as folder, ExitStack() as files:
        runs: list[_Run] = []
        last: pa.Table | None = None
        for number, table in enumerate(_sorted_runs(batches, by, run)):
            if last is not None:
                runs.append(_Run(by[0], _spill(last, Path(folder) / f"{number}.arrow", files)))
            last = table
        if last is not None:  # merged from memory
            runs.append(_Run(by[0], iter(_slices(last))))
        yield from _merge(runs, by)


def _sorted_runs(batches: Iterable[pa.RecordBatch], by: Sequence[str], run: int) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        if batch.num_rows:
            waiting.append(batch)
        if sum(each.num_rows for each in waiting) >= run:
            yield _in_order(pa.Table.from_batches(waiting), by)
            waiting = []
    if waiting:
        yield _in_order(pa.Table.from_batches(waiting), by)


def _in_order(table: pa.Table, by: Sequence[str]) -> pa.Table:
    return table.sort_by([(name, "ascending") for name in by])


def _spill(table: pa.Table, path: Path, files: ExitStack) -> Iterator[pa.Table]:
    """Write the table to a file, and return an iterator that reads it in blocks."""
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=BLOCK)
    pa.default_memory_pool().release_unused()
    reader = pa.ipc.open_file(files.enter_context(pa.OSFile(str(path), "rb")))
    return (pa.Table.from_batches([reader.get_batch(number)]) for number in range(reader.num_record_batches))


def _slices(table: pa.Table) -> Iterator[pa.Table]:
    return (table.slice(start, BLOCK) for start in range(0, table.num_rows, BLOCK))


class _Run:
    """A sorted run: it holds the rows that are read and not yet taken, at least one until all are read."""

    def __init__(self, key: str, blocks: Iterator[pa.Table]) -> None:
        self._key, self._blocks = key, blocks
        self._rows, self.ended = next(blocks), False

    def last(self) -> object:
        """Return the key of the last row read."""
        return self._rows[self._key][-1].as_py()

    def read_block(self) -> None:
        block = next(self._blocks, None)
        if block is None:
            self.ended = True
        else:
            self._rows = pa.concat_tables([self._rows, block])

    def take(self, below: object | None) -> pa.Table:
        """Remove and return the rows whose key is smaller than `below`; all where it is None."""
        count = self._rows.num_rows
        if below is not None:
            count = pc.sum(pc.less(self._rows[self._key], below)).as_py() or 0
        taken, self._rows = self._rows.slice(0, count), self._rows.slice(count)
        return taken


def _merge(runs: list[_Run], by: Sequence[str]) -> Iterator[pa.Table]:
    while runs:
        # No run has a row with a smaller key that is not read yet.
        below = min((run.last() for run in runs if not run.ended), default=None)  # type: ignore[type-var]  # of one type
        taken = pa.concat_tables([run.take(below) for run in runs])
        if taken.num_rows:
            yield _in_order(taken, by).combine_chunks()
        if below is None:
            return
        for run in runs:
            if not run.ended and run.last() == below:
                run.read_block()
