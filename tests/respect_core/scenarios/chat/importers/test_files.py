"""Files of any size and kind are read record by record."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from respect_core.log.log import RecordError
from respect_core.scenarios.chat.importers import Imported, files, read_conversations
from respect_core.scenarios.chat.importers.files import ChatLogError, find, records

RECORDS = [{"n": i, "text": "ü" * i} for i in range(5)]
LINES = "".join(json.dumps(each) + "\n" for each in RECORDS)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", LINES.encode()),
        ("a.jsonl", b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n\r\n").encode()),
        ("a.json", LINES.encode()),
        ("a.json", json.dumps(RECORDS, ensure_ascii=False).encode()),
        ("a.json", b"\xef\xbb\xbf\n" + json.dumps(RECORDS, indent=2).encode()),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("a.json.gz", gzip.compress(json.dumps(RECORDS).encode(), mtime=0)),
    ],
)
@pytest.mark.parametrize("block", [7, 1 << 20])
def test_lines_and_arrays_hold_the_same_records(
    name: str, data: bytes, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if json.dumps(RECORDS).encode() != data:  # to tell one line from many takes a whole line
        monkeypatch.setattr(files, "_BLOCK", max(block, len(data.split(b"\n")[0]) + 2) if "l" in name[-5:] else block)
    (tmp_path / name).write_bytes(data)
    assert [record for _, record in records(tmp_path / name)] == RECORDS


def test_parquet_is_read(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "a.parquet")
    assert list(records(tmp_path / "a.parquet")) == [(f"row {i + 1}", each) for i, each in enumerate(RECORDS)]


def test_one_object_over_several_lines_is_a_record(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(RECORDS[3], indent=2))
    assert list(records(tmp_path / "a.json")) == [("the object", RECORDS[3])]


def problems(path: Path) -> list[tuple[str, str]]:
    return [(name, record.reason) for name, record in records(path) if isinstance(record, RecordError)]


def test_an_array_that_was_cut_short_keeps_its_first_items(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(RECORDS)[:-9])
    assert problems(path) == [("item 5", "not JSON")] and len(list(records(path))) == 5


def test_what_is_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LONGEST", 64)
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"a": "x" * 200}) + "\n" + json.dumps({"b": 1}) + "\n")
    assert [name for name, _ in problems(path)] == ["line 1"] and list(records(path))[1] == ("line 2", {"b": 1})
    path.write_text(json.dumps({"a": "x" * 100}, indent=1))
    ((_, error),) = records(path)
    assert isinstance(error, RecordError) and "write each record as a line" in error.remedy


def test_a_broken_archive_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES.encode())[:-12])
    assert problems(tmp_path / "a.jsonl.gz")[-1][1] == "a file that cannot be read"


def test_folders_and_patterns_find_each_file_once(tmp_path: Path) -> None:
    for name in ("x/a.jsonl", "x/b.json", "x/.hidden/c.jsonl", "x/notes.md", "d.jsonl.gz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert [name for _, name in find([tmp_path])] == ["d.jsonl.gz", "x/a.jsonl", "x/b.json"]
    assert [name for _, name in find([tmp_path / "x" / "*.json*", tmp_path / "x"])] == ["a.jsonl", "b.json"]
    for path in ("nowhere.jsonl", "*.csv"):
        with pytest.raises(ChatLogError, match="check the path"):
            list(find([tmp_path / path]))


def test_an_unknown_format_names_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(LINES)
    with pytest.raises(ChatLogError, match="there are: chatgpt, helicone"):
        list(read_conversations([tmp_path], format="csv"))


@pytest.mark.heavy
@pytest.mark.parametrize("array", [False, True])
def test_memory_does_not_grow_with_a_file(array: bool, tmp_path: Path) -> None:
    text = "word " * 4_000

    def talk(number: int) -> dict[str, Any]:
        messages = [{"role": "user", "content": f"{number} {text}"}, {"role": "assistant", "content": text}]
        return {"id": str(number), "messages": messages}

    path = tmp_path / "log.json"
    with path.open("w") as file:
        file.write("[\n" if array else "")
        for number in range(500):
            file.write((",\n" if array and number else "") + json.dumps(talk(number)) + ("" if array else "\n"))
        file.write("]" if array else "")
    assert path.stat().st_size > 20e6
    summary = Imported()
    tracemalloc.start()
    try:
        for _ in read_conversations([path], redact=False, imported=summary):
            pass
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()
    assert summary.conversations == 500
