"""Find the files of a log and read their records, one at a time."""

from __future__ import annotations

import glob
import gzip
import json
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from itertools import count
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from respect_core.errors import ExpectedError
from respect_core.log.log import RecordError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
LONGEST = 1 << 28  # bytes of a record, or of a file that is one JSON object
_BLOCK = 1 << 20
_CUT = "restore it from where it was written; it may have been cut short"


class ChatLogError(ExpectedError, ValueError):
    """A log cannot be read at all."""


def find(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Yield the files of paths, folders and patterns, each once, with its name in messages.

    Raises:
        ChatLogError: a path does not exist, or holds no file with one of SUFFIXES.
    """
    seen = set[Path]()
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(
                each for each in path.rglob("*") if not any(p.startswith(".") for p in each.relative_to(path).parts)
            )
            files = [
                (each, each.relative_to(path).as_posix()) for each in inside if each.is_file() and is_log(each.name)
            ]
        elif path.exists():
            files = [(path, path.name)]
        else:
            matches = (Path(each) for each in sorted(glob.glob(str(path), recursive=True)))  # noqa: PTH207
            files = [(each, each.name) for each in matches if each.is_file()]
        if not files:
            raise ChatLogError(
                f"{path}: no such file, or no file that ends in {', '.join(SUFFIXES)} (or .gz); check the path"
            )
        for file, name in files:
            if (whole := file.resolve()) not in seen:
                seen.add(whole)
                yield file, name


def is_log(name: str) -> bool:
    """Return whether a file's name is that of a log."""
    return name.removesuffix(".gz").endswith(SUFFIXES)


def records(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield each record of a file with its name, or the RecordError that it is.

    JSON lines, an array and Parquet are streamed. A file that is one JSON object is read whole.

    Raises:
        ChatLogError: the file cannot be opened.
    """
    try:
        if file.name.endswith(".parquet"):
            yield from _rows(file)
            return
        with cast(IO[bytes], gzip.open(file)) if file.name.endswith(".gz") else file.open("rb") as stream:
            kind = _kind(stream)
            if kind == "array":
                yield from _array(stream)
            elif kind == "object":
                if file.stat().st_size > LONGEST:
                    raise OSError(f"one JSON object of more than {LONGEST >> 20} MiB; write each record as a line")
                yield "the object", _parsed(stream.read())
            else:
                yield from _lines(stream)
    except (OSError, EOFError, pa.ArrowInvalid) as error:
        yield "", RecordError("", "a file that cannot be read", f"{_CUT} ({error})")


def _rows(file: Path) -> Iterator[tuple[str, Any]]:
    number = count(1)
    for batch in pq.ParquetFile(file).iter_batches(batch_size=256):
        yield from ((f"row {next(number)}", row) for row in batch.to_pylist())


def _kind(stream: IO[bytes]) -> str:
    """Tell whether a file is an array, one object over several lines, or JSON lines; rewind."""
    first = stream.readline(_BLOCK)
    while first and not first.strip(b"\xef\xbb\xbf \t\r\n"):
        first = stream.readline(_BLOCK)
    more = bool(stream.read(1))
    stream.seek(0)
    start = first.strip(b"\xef\xbb\xbf \t\r\n")
    if start[:1] == b"[" and not (more and isinstance(_parsed(start), list)):
        return "array"
    return "object" if start == b"{" and more else "lines"


def _lines(stream: IO[bytes]) -> Iterator[tuple[str, Any]]:
    for number in count(1):
        line = stream.readline(LONGEST)
        if not line:
            return
        if len(line) == LONGEST and not line.endswith(b"\n"):
            while (rest := stream.readline(LONGEST)) and not rest.endswith(b"\n"):
                pass
            yield (
                f"line {number}",
                RecordError("", f"a line of more than {LONGEST >> 20} MiB", "write each record as a line"),
            )
        elif line.strip():
            yield f"line {number}", _parsed(line)


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return RecordError("", "invalid UTF-8", "write the log in UTF-8")
    except (ValueError, RecursionError):
        return RecordError("", "not JSON", _CUT)


def _array(stream: IO[bytes]) -> Iterator[tuple[str, Any]]:
    """Yield the items of a JSON array; memory holds one item and a block."""
    source = TextIOWrapper(stream, encoding="utf-8-sig", errors="replace")
    decoder, text, size, ended = json.JSONDecoder(), source.read(_BLOCK), _BLOCK, False
    number, at = 0, text.index("[") + 1
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        try:
            item, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            if not ended and len(text) - at <= LONGEST:  # the item may continue in the next block
                block = source.read(size)
                text, at, size, ended = text[at:] + block, 0, 2 * size, not block
                continue
            if text[at:].strip(" \t\r\n,]"):
                reason = "not JSON" if ended else f"an item of more than {LONGEST >> 20} MiB, or not JSON"
                yield f"item {number + 1}", RecordError("", reason, f"{_CUT}; the items before it are read")
            return
        number, size = number + 1, _BLOCK
        yield f"item {number}", item
