"""Sorting by way of files."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from respect_core.store import sorting
from respect_core.store.sorting import sorted_groups

ROWS = st.lists(st.tuples(st.text("ab\u00e9\U0001f600", max_size=2), st.none() | st.integers(0, 3)), max_size=60)


def _batches(rows: list[tuple[str, int | None]], size: int) -> list[pa.RecordBatch]:
    keys, values = zip(*rows, strict=True) if rows else ((), ())
    return pa.table({"key": pa.array(keys, pa.string()), "value": pa.array(values, pa.int32())}).to_batches(size)


@given(ROWS, st.integers(1, 70), st.integers(1, 70), st.integers(1, 5))
def test_order_and_whole_groups(rows: list[tuple[str, int | None]], size: int, run: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "BLOCK", block)
        groups = list(sorted_groups(_batches(rows, size), ["key", "value"], run=run))
    found = [(row["key"], row["value"]) for group in groups for row in group.to_pylist()]
    assert found == sorted(rows, key=lambda row: (row[0], 9 if row[1] is None else row[1]))
    keys = [key for group in groups for key in group["key"].unique().to_pylist()]
    assert len(keys) == len(set(keys)), "rows of one key in two groups"


def test_files_go_to_scratch_and_are_gone_in_the_end(tmp_path: Path) -> None:
    rows = [(f"{number:04}", number) for number in range(1000)]
    Random(0).shuffle(rows)
    groups = sorted_groups(_batches(rows, 100), ["key"], tmp_path, run=300)
    next(groups)
    assert len(list(tmp_path.rglob("*.arrow"))) == 3  # the fourth run is merged from memory
    groups.close()
    assert not list(tmp_path.iterdir())
