"""Read log objects block by block: rows of the records that enter the tables, and why the others do not."""

from __future__ import annotations

import hashlib
import io
import json
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa

from respect_core.log.lengths import spoken
from respect_core.log.log import RecordError, parse_record
from respect_core.log.records import InteractionLog, outcome_row, turn_rows
from respect_core.scenario import scenario
from respect_core.schemas import OUTCOMES_SCHEMA, TURNS_SCHEMA, Columns
from respect_core.store.base import Store
from respect_core.store.manifests import Partition

LINE_LIMIT = 4 << 20  # bytes; a longer line is set aside without being read into memory


BLOCK = 2 << 20  # bytes of whole lines that are read as columns, plus the rest of the last line


SMALL_BLOCK = 64 << 10  # bytes that are read record by record where they cannot be read as columns


@dataclass
class Seen:
    """The ids that are taken and the images that exist, by which a record is accepted or refused."""

    ids: set[str]
    images: set[str]
    unseen: set[str]  # of `images`, those that need no picture
    lacking: set[str] = field(default_factory=set)  # images that records of this batch name and the store lacks


def read_ahead(store: Store, keys: Iterable[str]) -> Generator[tuple[str, BinaryIO], None, None]:
    """Open objects in order, each closed before the next; one more is fetched while the caller works.

    Close the generator: a caller that stops early leaves an object open.
    """
    opened: deque[tuple[str, Future[BinaryIO]]] = deque()
    with ThreadPoolExecutor(1) as pool:
        try:
            for key in keys:
                opened.append((key, pool.submit(store.open, key)))
                if len(opened) == 2:
                    yield from _first(opened)
            if opened:
                yield from _first(opened)
        finally:
            for _, future in opened:
                if not future.cancel() and future.exception() is None:
                    future.result().close()


def _first(opened: deque[tuple[str, Future[BinaryIO]]]) -> Iterator[tuple[str, BinaryIO]]:
    key, future = opened.popleft()
    with closing(future.result()) as file:
        yield key, file


def blocks(file: BinaryIO, digest: hashlib._Hash) -> Iterator[bytes]:
    """Yield whole lines, about BLOCK bytes at a time; of a line over the limit its start. Every byte is digested."""
    while block := file.read(BLOCK):
        block += file.readline(LINE_LIMIT)
        digest.update(block)
        while not block.endswith(b"\n") and (rest := file.readline(LINE_LIMIT)):
            digest.update(rest)
            if rest.endswith(b"\n"):
                block += b"\n"
        yield block


def accept(
    block: bytes, first: int, partition: Partition, seen: Seen
) -> Iterator[tuple[Columns, list[tuple[int, RecordError]]]]:
    """Yield rows of the records that enter the tables, and the errors of the others by line number, in order.

    Where a block cannot be read as columns, its halves are tried, recursively: an odd record slows down few others.
    """
    columns = _columns(block, partition, seen) if len(block) < LINE_LIMIT else None
    half = block.find(b"\n", len(block) // 2) + 1
    if columns is not None:
        seen.ids.update(columns.outcomes["interaction_id"].to_pylist())
        yield columns, []
    elif len(block) > SMALL_BLOCK and 0 < half < len(block):
        yield from accept(block[:half], first, partition, seen)
        yield from accept(block[half:], first + block.count(b"\n", 0, half), partition, seen)
    else:
        yield _by_record(block, first, partition, seen)


def _columns(block: bytes, partition: Partition, seen: Seen) -> Columns | None:
    """Read a block as columns by its first record's scenario; None where that is unknown, or cannot."""
    try:
        record = json.loads(block[: block.find(b"\n") + 1] or block)
        name = record.get("scenario", InteractionLog.model_fields["scenario"].default)
        return scenario(name).read_columns(block, partition, seen.ids, seen.images)
    except (ValueError, AttributeError, TypeError, RecursionError):  # the reader of single records reports it
        return None


def _by_record(
    block: bytes, first: int, partition: Partition, seen: Seen
) -> tuple[Columns, list[tuple[int, RecordError]]]:
    """Read a block line by line, with the same result as `accept`."""
    turns: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    errors: list[tuple[int, RecordError]] = []
    for number, line in enumerate(io.BytesIO(block), start=first):
        try:
            log = _record(line, partition, seen)
        except RecordError as error:
            errors.append((number, error))
            continue
        if log is not None:
            turns += turn_rows(log)
            outcomes.append(outcome_row(log))
    tables = pa.Table.from_pylist(turns, TURNS_SCHEMA), pa.Table.from_pylist(outcomes, OUTCOMES_SCHEMA)
    return Columns(*tables), errors


def _record(line: bytes, partition: Partition, seen: Seen) -> InteractionLog | None:
    """Read a record that may enter the tables; return None for a blank line. Raises RecordError."""
    if len(line.removesuffix(b"\n")) >= LINE_LIMIT:
        raise RecordError("", f"longer than {LINE_LIMIT} bytes", "write one interaction on each line")
    if not line.strip():
        return None
    log = parse_record(line)
    for name, value in zip(partition._fields, partition, strict=True):
        if getattr(log, name) != value:
            raise RecordError(
                name, f"{getattr(log, name)!r} in a log of {value!r}", "append it to the log it belongs to"
            )
    longest = scenario(log.scenario).longest_utterance
    for number, turn in enumerate(log.turns):
        remedy = "refuse utterances of this length where they are written"
        spoken(turn.utterance, f"turns[{number}].utterance", remedy, longest)
    if log.interaction_id in seen.ids:
        raise RecordError(
            "interaction_id", f"{log.interaction_id!r} is taken by an earlier record", "give each game an id of its own"
        )
    if not seen.images.issuperset(log.context):
        lacking = sorted(set(log.context) - seen.images)
        seen.lacking.update(lacking)
        raise RecordError(
            "context",
            f"image {lacking[0]!r} has no file images/{lacking[0]}.png ({len(lacking)} such)",
            "put it there and export again",
        )
    seen.ids.add(log.interaction_id)
    return log
