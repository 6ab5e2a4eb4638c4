"""Compare two runs byte for byte: `python -m tests.same_results RUN_FOLDER RUN_FOLDER`.

A change that must not change results is checked with the same command on the commits before and after it, e.g.

    respect demo --run same --games 20 --replay 0 --variants b-fft,b-rl,b-kto

Tables are compared without what a clock or a version says, and adapters by their weights.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pyarrow.parquet as pq

TABLES = {"turns": ["adapter_hash"], "outcomes": ["started_at", "seconds"], "feedback": [], "training_sets": []}
"""Tables, each with the columns that carry a clock or, as the hash of an adapter's whole folder does, a version."""


def results(run: Path) -> dict[str, str]:
    """Return what a run made, by place: contents of tables, games and adapters."""
    store = run / "store"
    made = {
        str(file.parent.relative_to(store)): _table(file, without)
        for name, without in TABLES.items()
        for file in store.glob(f"{name}/**/part-*")
    }
    made |= {str(file.relative_to(store)): _hash(file) for file in store.glob("game_sets/*")}
    weights = (run / "work").glob("**/step-*/adapter_model.safetensors")
    return made | {str(file.parent.relative_to(run / "work")): _hash(file) for file in weights}


def _table(file: Path, without: list[str]) -> str:
    rows = pq.ParquetFile(file).read().drop_columns(without).to_pylist()
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def main(before: Path, after: Path) -> int:
    """Print what is the same and what is not; returns the exit code."""
    first, second = results(before), results(after)
    places = sorted(first.keys() | second.keys())
    different = [place for place in places if first.get(place) != second.get(place)]
    for place in places:
        print(f"{'DIFFERS' if place in different else 'same'}  {place}")
    print(f"{len(places) - len(different)} the same, {len(different)} not")
    return 1 if different or not places else 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:3])))
