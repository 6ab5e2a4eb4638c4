"""Read tables of a partition game by game, in order of id, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeAlias

import pyarrow as pa

from respect_core.store.base import Store
from respect_core.store.manifests import Partition
from respect_core.store.sorting import sorted_groups
from respect_core.store.tables import iter_batches

ROW = "row"
"""In every row: its number in the partition of its table, from 0."""

Rows: TypeAlias = Mapping[str, Sequence[Mapping[str, Any]]]
"""Table -> a game's rows: those of `turns` in order of turn, others as they are in their table."""

_GAME = itemgetter(0)


def games(store: Store, partition: Partition, columns: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, Rows]]:
    """Yield the id of each game in any of the tables, and its rows.

    Args:
        columns: what to read of each table, beside the id. The tables have to be `turns`, or any other with an id.

    Raises:
        TableError, StoreError: as reading tables does.
        OSError: no room for the files of sorting.
    """
    streams = [_sorted(store, partition, name, wanted) for name, wanted in columns.items()]
    for game, found in groupby(merge(*streams, key=_GAME), _GAME):
        rows: dict[str, Sequence[Mapping[str, Any]]] = dict.fromkeys(columns, ())
        yield game, rows | {name: of_game for _, name, of_game in found}


def _sorted(
    store: Store, partition: Partition, name: str, columns: Sequence[str]
) -> Iterator[tuple[str, str, list[Mapping[str, Any]]]]:
    """Yield game, table and the game's rows."""
    batches = iter_batches(store, name, [partition.round], [partition.variant], ["interaction_id", *columns])
    by = ["interaction_id", "turn" if name == "turns" else ROW]
    for group in sorted_groups(_numbered(batches), by, store.scratch):
        for game, rows in groupby(group.to_pylist(), itemgetter("interaction_id")):
            yield game, name, list(rows)


def _numbered(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    done = 0
    for batch in batches:
        yield batch.append_column(ROW, pa.array(range(done, done + batch.num_rows), pa.int64()))
        done += batch.num_rows
