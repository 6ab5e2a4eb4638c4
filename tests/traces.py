"""Search a folder or a store for words: bytes in all spellings, columns of Parquet, SQLite, compressed files."""

from __future__ import annotations

import gzip
import io
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq

from respect_core.store.base import Store


def in_store(store: Store, *words: str) -> list[str]:
    """Keys of the objects that have one of the words."""
    return [key for key in store.entries() if any(_hits(store.read(key), words))]


def in_folder(folder: Path, *words: str) -> list[str]:
    """Files that have one of the words, with the tables of databases."""
    found = []
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        name = str(path.relative_to(folder))
        if any(_hits(path.read_bytes(), words)):
            found.append(name)
        if path.suffix == ".db":
            found += [f"{name}: {table}" for table in _tables(path, words)]
    return found


def _spellings(words: Iterable[str]) -> Iterator[bytes]:
    for word in words:
        yield from (word.encode(), json.dumps(word)[1:-1].encode(), word.encode("utf-16-le"))


def _hits(data: bytes, words: Iterable[str]) -> Iterator[bytes]:
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    if data[:4] == b"PAR1":
        table = pq.read_table(io.BytesIO(data))
        data += json.dumps(table.to_pylist(), ensure_ascii=False, default=str).encode()
        data += str(table.schema.metadata).encode()
    return (each for each in _spellings(words) if each in data)


def _tables(database: Path, words: Iterable[str]) -> Iterator[str]:
    with closing(sqlite3.connect(database)) as opened:
        for (table,) in opened.execute("select name from sqlite_master where type = 'table'").fetchall():
            values = (value for row in opened.execute(f'select * from "{table}"') for value in row)
            texts = (value if isinstance(value, bytes) else str(value).encode() for value in values)
            if any(each in text for text in texts for each in _spellings(words)):
                yield table
