"""Export: logs of interactions to the tables `turns` and `outcomes`, whatever is new since the last time.

One pass over the new objects of a partition makes one part of either table and one file of records set aside.
The manifest of `outcomes` is written first, that of `turns` last. What counts as exported is what both name, so a
run that was killed at any point is completed by the next, and a run without new objects writes nothing. A batch
is exported anew when one of its objects changed size, an image that its records lacked has arrived, or the store has
lost a part that was made of it; log objects that are archived after their export take nothing out of the tables.

Exports of one store take turns, on whatever machine they run (`store.leases`). Should two be at it nevertheless,
the one that finds that the other committed begins anew with what is there then (`respect_core.store.tables.commit`).

Records are read in blocks of lines, as columns (`Scenario.read_columns`); a block with anything unusual in it goes
through record by record, which gives the same rows and finds what is wrong.

Of several records with one interaction id in a partition the first wins: earlier exports first, then by key and
line. Memory holds two blocks and their columns (one is read while a thread writes the other), a row group of
either table, the ids of the partition's interactions, and what the store holds of two objects (one is read while
the next is fetched).
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, BinaryIO

import pyarrow as pa

from respect_core.log.lengths import spoken
from respect_core.log.log import LOGS, SET_ASIDE, RecordError, new_lines, parse_record
from respect_core.log.records import InteractionLog, outcome_row, turn_rows
from respect_core.scenario import Columns, ScenarioError, scenario
from respect_core.schemas import OUTCOMES_SCHEMA, SCHEMA_VERSION, TURNS_SCHEMA
from respect_core.store.base import Store
from respect_core.store.images import known_images
from respect_core.store.leases import lease
from respect_core.store.manifests import (
    ChangedError,
    Input,
    Manifest,
    Part,
    Partition,
    TableError,
    missing_parts,
    partitions,
    partitions_with,
    read_manifest,
)
from respect_core.store.tables import PartWriter, commit, new_part, part_batches, put_part, sweep

TURNS, OUTCOMES = "turns", "outcomes"
TRIES = 5  # of an export that others outrun
LINE_LIMIT = 4 << 20  # bytes; a longer line is set aside without being read into memory
BLOCK = 2 << 20  # bytes of whole lines that are read as columns; one more line may hang over
SMALL_BLOCK = 64 << 10  # bytes that are read record by record if not as columns


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportReport:
    """What the tables of a round hold after an export, all exports together, and what this one found."""

    round: int
    variants: list[str] = field(default_factory=list)
    games: int = 0
    turns: int = 0
    turns_with_followup: int = 0
    set_aside: int = 0
    new_objects: int = 0
    unchanged_objects: int = 0


@dataclass(frozen=True)
class _Found:
    """What a partition holds before an export."""

    sizes: dict[str, int]  # bytes of its log objects
    manifests: dict[str, Manifest | None]  # by table, as the next three
    missing: dict[str, set[str]]  # paths of parts that the store has lost
    kept: dict[str, list[Part]]  # parts that still stand: named by both manifests, and not to be made anew

    @property
    def new(self) -> dict[str, int]:
        """Log objects to export."""
        done = {source.key for part in self.kept[TURNS] for source in part.inputs}
        return {key: size for key, size in self.sizes.items() if key not in done}


@dataclass
class _Seen:
    """What decides about a record beyond the record itself: ids taken and images there are."""

    ids: set[str]
    images: set[str]
    unseen: set[str]  # of these, images that need no picture
    lacking: set[str] = field(default_factory=set)  # images that records of this batch asked for in vain


def export(
    store: Store, round: int, variants: Iterable[str] | None = None, *, unseen: Collection[str] = ()
) -> ExportReport:
    """Export a round's new log objects, of all variants or of these.

    Records that cannot be used are set aside under ``set_aside/round=R/variant=V/`` and counted; the rest goes on.

    Args:
        unseen: images whose pictures the store may lack, because nothing looks at them: tables are enough. Parts keep
            these names, in case they must be made again.

    Raises:
        StoreError: the store cannot be read or written; what was exported before stays as it was.
        TableError: a manifest or table of an earlier export is damaged, or its rows are gone for good.
        ChangedError: other processes exported the same again and again.
    """
    return _export_round(store, round, variants, known_images(store), set(unseen))


def export_everything(store: Store, before: int | None = None) -> None:
    """Export what is new in all rounds, or in those before a round. Raises as `export` does."""
    images = known_images(store)
    for round in sorted({partition.round for partition in partitions_with(store, LOGS, ".jsonl")}):
        if before is None or round < before:
            _export_round(store, round, None, images, set())


def _export_round(
    store: Store, round: int, variants: Iterable[str] | None, images: set[str], unseen: set[str]
) -> ExportReport:
    report = ExportReport(round)
    wanted = [round], None if variants is None else list(variants)
    logged, exported = partitions_with(store, LOGS, ".jsonl", *wanted), partitions(store, TURNS, *wanted)
    for partition in sorted({*logged, *exported}):
        manifest, new, objects = _export_partition(store, partition, images, unseen)
        counts = manifest.counts
        report = replace(
            report,
            variants=[*report.variants, partition.variant],
            games=report.games + counts.get("games", 0),
            turns=report.turns + counts.get("turns", 0),
            turns_with_followup=report.turns_with_followup + counts.get("turns_with_followup", 0),
            set_aside=report.set_aside + counts.get("set_aside", 0),
            new_objects=report.new_objects + new,
            unchanged_objects=report.unchanged_objects + objects - new,
        )
    return report


def _export_partition(
    store: Store, partition: Partition, images: set[str], unseen: set[str]
) -> tuple[Manifest, int, int]:
    """Export one partition; returns its turns manifest, the number of new objects, and of all objects."""
    found = _look(store, partition, images | unseen)
    if not found.new:
        return _turns(found), 0, len(found.sizes)
    waiting = partial(_log.warning, "another process exports to %s; waiting until it has ended", store.uri)
    with lease(store, "export", waiting) as waited:
        for tries in range(TRIES):
            if waited or tries:
                found = _look(store, partition, images | unseen)
            try:
                manifest = _export_new(store, partition, found, images, unseen) if found.new else _turns(found)
                return manifest, len(found.new), len(found.sizes)
            except ChangedError:
                if tries == TRIES - 1:
                    raise
    raise AssertionError("unreachable")


def _turns(found: _Found) -> Manifest:
    """The manifest of turns, of a partition with nothing new."""
    manifest = found.manifests[TURNS]
    assert manifest is not None, "it has objects or a manifest, and the objects have been exported"
    return manifest


def _look(store: Store, partition: Partition, images: set[str]) -> _Found:
    """What there is of a partition. Raises TableError where rows are gone, and the logs that they were made from."""
    manifests = {table: read_manifest(store, table, *partition) for table in (TURNS, OUTCOMES)}
    missing = {table: missing_parts(store, table, partition, each) for table, each in manifests.items()}
    sizes = {key: size for key, size in store.sizes(partition.folder(LOGS)).items() if key.endswith(".jsonl")}
    found = _Found(sizes, manifests, missing, _kept(manifests, missing, sizes, images))
    standing = {source.key for part in found.kept[TURNS] for source in part.inputs}
    for table, manifest in manifests.items():
        for part in manifest.parts if manifest else ():
            archived = [each.key for each in part.inputs if each.key not in sizes and each.key not in standing]
            if archived:
                raise TableError(
                    f"{store.uri}/{partition.folder(table)}{part.path}: rows are gone, and so is the log "
                    f"that they were made from, {archived[0]} ({len(archived)} such); put it back from where it was "
                    f"archived and export again, or delete {partition.folder(TURNS)} and "
                    f"{partition.folder(OUTCOMES)} to do without"
                )
    return found


def _export_new(store: Store, partition: Partition, found: _Found, images: set[str], unseen: set[str]) -> Manifest:
    """Export new objects. Raises ChangedError where another process was quicker."""
    kept, before = found.kept, found.manifests
    ids = _ids(store, partition, kept[TURNS])
    without = (unseen | unseen_images(before[TURNS])) - images
    turns, outcomes = _export_batch(store, partition, found.new, _Seen(ids, images | without, without))
    paired = commit(store, OUTCOMES, partition, [*kept[OUTCOMES], outcomes], replaces=before[OUTCOMES])
    manifest = commit(store, TURNS, partition, [*kept[TURNS], turns], replaces=before[TURNS])
    if read_manifest(store, OUTCOMES, *partition) != paired:
        raise ChangedError(f"{store.uri}/{partition.folder(OUTCOMES)}: committed by another process meanwhile")
    _forget_set_aside(store, partition, before[TURNS])
    return manifest


def unseen_images(turns: Manifest | None) -> set[str]:
    """Images that needed no picture when parts of a manifest of turns were made."""
    return {image for part in (turns.parts if turns else ()) for image in part.metadata.get("unseen_images", ())}


def _kept(
    manifests: Mapping[str, Manifest | None], missing: Mapping[str, set[str]], sizes: dict[str, int], images: set[str]
) -> dict[str, list[Part]]:
    """Parts by table that still stand."""
    parts: dict[str, dict[tuple[Input, ...], Part]] = {}
    for table, manifest in manifests.items():
        current = manifest.parts if manifest and manifest.schema_version == SCHEMA_VERSION else ()
        parts[table] = {part.inputs: part for part in current if part.path not in missing[table]}

    def outdated(part: Part) -> bool:
        if any(source.key not in sizes for source in part.inputs):
            return False  # the log was archived: the tables keep what they have
        changed = any(sizes[source.key] != source.size for source in part.inputs)
        return changed or not images.isdisjoint(part.metadata.get("lacking_images", ()))

    standing = [inputs for inputs, part in parts[TURNS].items() if inputs in parts[OUTCOMES] and not outdated(part)]
    return {table: [by_inputs[inputs] for inputs in standing] for table, by_inputs in parts.items()}


def _ids(store: Store, partition: Partition, kept: list[Part]) -> set[str]:
    """Ids of the interactions in the parts that stand."""
    return {
        each
        for part in kept
        for batch in part_batches(store, TURNS, partition, part, ["interaction_id"])
        for each in batch.column(0).unique().to_pylist()
    }


def _export_batch(store: Store, partition: Partition, sizes: dict[str, int], seen: _Seen) -> tuple[Part, Part]:
    """One pass over log objects; stores a part of turns and one of outcomes, both still to be committed."""
    inputs: list[Input] = []
    with ExitStack() as stack:
        turns = stack.enter_context(new_part(store, TURNS, partition))
        outcomes = stack.enter_context(new_part(store, OUTCOMES, partition))
        problems = stack.enter_context(new_lines(store, partition.folder(SET_ASIDE)))
        behind = stack.enter_context(_WriteBehind(turns, outcomes))
        for key, file in stack.enter_context(closing(_read_ahead(store, sizes))):
            digest, first = hashlib.sha256(), 1
            for block in _blocks(file, digest):
                for accepted, refused in _accept(block, first, partition, seen):
                    behind.write(accepted)
                    for number, error in refused:
                        problems.add(error.at(key, f"line {number}").to_json())
                first += block.count(b"\n")
            inputs.append(Input(key=key, size=sizes[key], sha256=digest.hexdigest()))
        behind.finish()
        notes = {"lacking_images": sorted(seen.lacking)} if seen.lacking else {}
        notes |= {"unseen_images": sorted(seen.unseen)} if seen.unseen else {}
        set_aside = {"set_aside": problems.put(partition.folder(SET_ASIDE) + "export-")} if problems.count else {}
        games = {"games": outcomes.rows}
        followed = {"turns": turns.rows, "turns_with_followup": turns.rows - outcomes.rows}
        counts = games | followed | {"set_aside": problems.count}
        return put_part(store, turns, inputs, counts, notes | set_aside), put_part(store, outcomes, inputs, games)


class _WriteBehind:
    """Writes rows into both tables in a thread, while the caller reads the next. Leave it before the writers close."""

    def __init__(self, turns: PartWriter, outcomes: PartWriter) -> None:
        self._turns, self._outcomes = turns, outcomes
        self._thread = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None

    def write(self, columns: Columns) -> None:
        """Returns when what was given before is written."""
        self.finish()
        self._written = self._thread.submit(self._write, columns)

    def finish(self) -> None:
        """Returns when everything is written."""
        if self._written is not None:
            self._written.result()

    def _write(self, columns: Columns) -> None:
        self._turns.add_batch(columns.turns)
        self._outcomes.add_batch(columns.outcomes)

    def __enter__(self) -> _WriteBehind:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()


def _read_ahead(store: Store, keys: Iterable[str]) -> Generator[tuple[str, BinaryIO], None, None]:
    """Objects opened in order, each closed after its turn; the next is fetched while the caller works on one.

    Close it: a caller that gives up leaves an object fetched ahead.
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


def _blocks(file: BinaryIO, digest: hashlib._Hash) -> Iterator[bytes]:
    """Whole lines, about BLOCK bytes at a time; of a line over the limit the beginning. Every byte is digested."""
    while block := file.read(BLOCK):
        block += file.readline(LINE_LIMIT)
        digest.update(block)
        while not block.endswith(b"\n") and (rest := file.readline(LINE_LIMIT)):
            digest.update(rest)
            if rest.endswith(b"\n"):
                block += b"\n"
        yield block


def _accept(
    block: bytes, first: int, partition: Partition, seen: _Seen
) -> Iterator[tuple[Columns, list[tuple[int, RecordError]]]]:
    """Rows of the records that may enter the tables, and by number of line why others may not; in order.

    Where a block cannot be read as columns, its halves are tried, and so on: one odd record slows down few others.
    """
    columns = _columns(block, partition, seen) if len(block) < LINE_LIMIT else None
    half = block.find(b"\n", len(block) // 2) + 1
    if columns is not None:
        seen.ids.update(columns.outcomes["interaction_id"].to_pylist())
        yield columns, []
    elif len(block) > SMALL_BLOCK and 0 < half < len(block):
        yield from _accept(block[:half], first, partition, seen)
        yield from _accept(block[half:], first + block.count(b"\n", 0, half), partition, seen)
    else:
        yield _by_record(block, first, partition, seen)


def _columns(block: bytes, partition: Partition, seen: _Seen) -> Columns | None:
    """Read a block as its first record's scenario does; None where that is not known, or cannot read it at once."""
    try:
        record = json.loads(block[: block.find(b"\n") + 1] or block)
        name = record.get("scenario", InteractionLog.model_fields["scenario"].default)
        return scenario(name).read_columns(block, partition, seen.ids, seen.images)
    except (ValueError, AttributeError, TypeError, RecursionError, ScenarioError):  # said by the record's own reader
        return None


def _by_record(
    block: bytes, first: int, partition: Partition, seen: _Seen
) -> tuple[Columns, list[tuple[int, RecordError]]]:
    """The same of a block whose lines are read one by one."""
    turns: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    refused: list[tuple[int, RecordError]] = []
    for number, line in enumerate(io.BytesIO(block), start=first):
        try:
            log = _record(line, partition, seen)
        except RecordError as error:
            refused.append((number, error))
            continue
        if log is not None:
            turns += turn_rows(log)
            outcomes.append(outcome_row(log))
    tables = pa.Table.from_pylist(turns, TURNS_SCHEMA), pa.Table.from_pylist(outcomes, OUTCOMES_SCHEMA)
    return Columns(*tables), refused


def _record(line: bytes, partition: Partition, seen: _Seen) -> InteractionLog | None:
    """A record that may enter the tables; None for a blank line. Raises RecordError."""
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
    for number, turn in enumerate(log.turns):
        spoken(turn.utterance, f"turns[{number}].utterance", "refuse what is so long where it is written")
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


def _forget_set_aside(store: Store, partition: Partition, replaced: Manifest | None) -> None:
    """Delete records set aside by exports that were killed or made anew."""

    def named() -> set[str]:
        return _set_aside(read_manifest(store, TURNS, *partition))

    sweep(store, partition.folder(SET_ASIDE) + "export-", _set_aside(replaced), named)


def _set_aside(manifest: Manifest | None) -> set[str]:
    """Keys of the records that the exports of these parts set aside."""
    parts = manifest.parts if manifest else ()
    return {part.metadata["set_aside"] for part in parts if "set_aside" in part.metadata}
