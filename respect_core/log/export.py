"""Export logs of interactions to the tables `turns` and `outcomes`, as far as they are new since the last export.

One pass over the new objects of a partition makes a part of each table and a file of the records set aside. The
manifest of `outcomes` is written first, that of `turns` last. An object counts as exported when both name it, so a run
that was killed at any point is completed by the next, and a run without new objects writes nothing. A batch is
exported again when one of its objects has changed size, an image that its records lacked has arrived, or the store has
lost a part made from it; archiving log objects after their export removes nothing from the tables.

Exports of one store take turns, on any machines (`store.leases`). If two overlap nevertheless, the one that finds the
other's commit starts over from the new contents (`respect_core.store.tables.commit`).

Records are read in blocks of lines, as columns (`Scenario.read_columns`); a block with anything unusual in it is read
record by record, which gives the same rows and finds the errors.

Of several records with the same interaction id in a partition the first wins: earlier exports first, then by key and
line. Memory holds two blocks and their columns (one is read while a thread writes the other), a row group of each
table, the ids of the partition's interactions, and two objects as far as the store buffers them (one is read while the
next is fetched).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial

from respect_core.log import tombstones
from respect_core.log.blocks import Seen, accept, blocks, read_ahead
from respect_core.log.log import LOGS, SET_ASIDE, new_lines
from respect_core.schemas import SCHEMA_VERSION, Columns
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
from respect_core.store.parts import PartWriter, new_part, put_part
from respect_core.store.tables import commit, part_batches, sweep

TURNS, OUTCOMES = "turns", "outcomes"
TRIES = 5  # attempts to export while other processes commit first


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportReport:
    """The contents of a round's tables after an export, from all exports, and the objects that this one read."""

    round: int
    variants: list[str] = field(default_factory=list)
    games: int = 0
    turns: int = 0
    turns_with_followup: int = 0
    set_aside: int = 0
    new_objects: int = 0
    unchanged_objects: int = 0


@dataclass(frozen=True)
class _State:
    """A partition before an export."""

    sizes: dict[str, int]  # bytes of its log objects
    manifests: dict[str, Manifest | None]  # by table, as are the next two
    missing: dict[str, set[str]]  # paths of parts that the store has lost
    valid: dict[str, list[Part]]  # parts that both manifests name and that need not be made again

    @property
    def new(self) -> dict[str, int]:
        """Log objects to export."""
        exported = {source.key for part in self.valid[TURNS] for source in part.inputs}
        return {key: size for key, size in self.sizes.items() if key not in exported}


def export(
    store: Store, round: int, variants: Iterable[str] | None = None, *, unseen: Collection[str] = ()
) -> ExportReport:
    """Export a round's new log objects, of all variants or of these.

    Records that cannot be used are set aside under ``set_aside/round=R/variant=V/`` and counted; the others are
    exported.

    Args:
        unseen: images that the store may lack, because only tables are needed and no model looks at them. Parts note
            these names, in case they must be made again.

    Raises:
        StoreError: the store cannot be read or written; earlier exports stay as they were.
        TableError: a manifest or table of an earlier export is damaged, or its rows are lost for good.
        ChangedError: other processes kept committing exports of the same partition.
    """
    return _export_round(store, round, variants, known_images(store), set(unseen))


def export_everything(store: Store, before: int | None = None) -> None:
    """Export new log objects of all rounds, or of those before a round. Raises as `export` does."""
    images = known_images(store)
    for round in sorted({partition.round for partition in partitions_with(store, LOGS, ".jsonl")}):
        if before is None or round < before:
            _export_round(store, round, None, images, set())


def _export_round(
    store: Store, round: int, variants: Iterable[str] | None, images: set[str], unseen: set[str]
) -> ExportReport:
    report = ExportReport(round)
    selection = [round], None if variants is None else list(variants)
    logs, tables = partitions_with(store, LOGS, ".jsonl", *selection), partitions(store, TURNS, *selection)
    for partition in sorted({*logs, *tables}):
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
    """Export one partition; return its turns manifest, and the numbers of new and of all objects."""
    state = _inspect(store, partition, images | unseen)
    if not state.new:
        return _turns(state), 0, len(state.sizes)
    waiting = partial(_log.warning, "another process exports to %s; waiting until it has ended", store.uri)
    with lease(store, "export", waiting) as waited:
        for tries in range(TRIES):
            if waited or tries:
                state = _inspect(store, partition, images | unseen)
            try:
                manifest = _export_new(store, partition, state, images, unseen) if state.new else _turns(state)
                return manifest, len(state.new), len(state.sizes)
            except ChangedError:
                if tries == TRIES - 1:
                    raise
    raise AssertionError("unreachable")


def _turns(state: _State) -> Manifest:
    """Return the manifest of turns of a partition with nothing new."""
    manifest = state.manifests[TURNS]
    assert manifest is not None, "it has objects or a manifest, and the objects have been exported"
    return manifest


def _inspect(store: Store, partition: Partition, images: set[str]) -> _State:
    """Read the state of a partition. Raises TableError where rows are lost together with their logs."""
    manifests = {table: read_manifest(store, table, *partition) for table in (TURNS, OUTCOMES)}
    missing = {table: missing_parts(store, table, partition, each) for table, each in manifests.items()}
    sizes = {key: size for key, size in store.sizes(partition.folder(LOGS)).items() if key.endswith(".jsonl")}
    state = _State(sizes, manifests, missing, _valid(manifests, missing, sizes, images))
    exported = {source.key for part in state.valid[TURNS] for source in part.inputs}
    for table, manifest in manifests.items():
        for part in manifest.parts if manifest else ():
            archived = [each.key for each in part.inputs if each.key not in sizes and each.key not in exported]
            if archived:
                raise TableError(
                    f"{store.uri}/{partition.folder(table)}{part.path}: rows are gone, and so is the log "
                    f"that they were made from, {archived[0]} ({len(archived)} such); put it back from where it was "
                    f"archived and export again, or delete {partition.folder(TURNS)} and "
                    f"{partition.folder(OUTCOMES)} to do without"
                )
    return state


def _export_new(store: Store, partition: Partition, state: _State, images: set[str], unseen: set[str]) -> Manifest:
    """Export new objects. Raises ChangedError where another process was quicker."""
    valid, before = state.valid, state.manifests
    ids = _ids(store, partition, valid[TURNS])
    without = (unseen | unseen_images(before[TURNS])) - images
    turns, outcomes = _export_batch(store, partition, state.new, Seen(ids, images | without, without))
    paired = commit(store, OUTCOMES, partition, [*valid[OUTCOMES], outcomes], replaces=before[OUTCOMES])
    manifest = commit(store, TURNS, partition, [*valid[TURNS], turns], replaces=before[TURNS])
    if read_manifest(store, OUTCOMES, *partition) != paired:
        raise ChangedError(f"{store.uri}/{partition.folder(OUTCOMES)}: committed by another process meanwhile")
    _forget_set_aside(store, partition, before[TURNS])
    return manifest


def unseen_images(turns: Manifest | None) -> set[str]:
    """Return the images that needed no picture when the parts of a manifest of turns were made."""
    return {image for part in (turns.parts if turns else ()) for image in part.metadata.get("unseen_images", ())}


def _valid(
    manifests: Mapping[str, Manifest | None], missing: Mapping[str, set[str]], sizes: dict[str, int], images: set[str]
) -> dict[str, list[Part]]:
    """Return the parts that need not be made again, by table."""
    parts: dict[str, dict[tuple[Input, ...], Part]] = {}
    for table, manifest in manifests.items():
        readable = manifest.parts if manifest and manifest.schema_version == SCHEMA_VERSION else ()
        parts[table] = {part.inputs: part for part in readable if part.path not in missing[table]}

    def outdated(part: Part) -> bool:
        if any(source.key not in sizes for source in part.inputs):
            return False  # the log was archived: the tables keep its rows
        changed = any(sizes[source.key] != source.size for source in part.inputs)
        return changed or not images.isdisjoint(part.metadata.get("lacking_images", ()))

    current = [inputs for inputs, part in parts[TURNS].items() if inputs in parts[OUTCOMES] and not outdated(part)]
    return {table: [by_inputs[inputs] for inputs in current] for table, by_inputs in parts.items()}


def _ids(store: Store, partition: Partition, parts: list[Part]) -> set[str]:
    """Return the ids of the interactions in these parts."""
    return {
        each
        for part in parts
        for batch in part_batches(store, TURNS, partition, part, ["interaction_id"])
        for each in batch.column(0).unique().to_pylist()
    }


def _export_batch(store: Store, partition: Partition, sizes: dict[str, int], seen: Seen) -> tuple[Part, Part]:
    """Read log objects in one pass; store a part of turns and one of outcomes, for the caller to commit."""
    inputs: list[Input] = []
    forgotten = tombstones.read(store)
    with ExitStack() as stack:
        turns = stack.enter_context(new_part(store, TURNS, partition))
        outcomes = stack.enter_context(new_part(store, OUTCOMES, partition))
        problems = stack.enter_context(new_lines(store, partition.folder(SET_ASIDE)))
        writer = stack.enter_context(_WriteBehind(turns, outcomes))
        for key, file in stack.enter_context(closing(read_ahead(store, sizes))):
            digest, first = hashlib.sha256(), 1
            for block in blocks(file, digest):
                for columns, errors in accept(block, first, partition, seen):
                    writer.write(forgotten.without(columns))
                    for number, error in errors:
                        problems.add(error.at(key, f"line {number}").to_json())
                first += block.count(b"\n")
            inputs.append(Input(key=key, size=sizes[key], sha256=digest.hexdigest()))
        writer.finish()
        notes = {"lacking_images": sorted(seen.lacking)} if seen.lacking else {}
        notes |= {"unseen_images": sorted(seen.unseen)} if seen.unseen else {}
        set_aside = {"set_aside": problems.put(partition.folder(SET_ASIDE) + "export-")} if problems.count else {}
        games = {"games": outcomes.rows}
        counts = games | {"turns": turns.rows, "turns_with_followup": writer.follow_ups}
        counts |= {"set_aside": problems.count}
        return put_part(store, turns, inputs, counts, notes | set_aside), put_part(store, outcomes, inputs, games)


class _WriteBehind:
    """A writer of rows to both tables, in a thread while the caller reads on. Leave it before the writers close."""

    def __init__(self, turns: PartWriter, outcomes: PartWriter) -> None:
        self._turns, self._outcomes = turns, outcomes
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self.follow_ups = 0  # rows of turns that have one

    def write(self, columns: Columns) -> None:
        """Start to write these rows, once the earlier ones are written."""
        self.finish()
        self._pending = self._thread.submit(self._write, columns)

    def finish(self) -> None:
        """Wait until all rows are written."""
        if self._pending is not None:
            self._pending.result()

    def _write(self, columns: Columns) -> None:
        self._turns.add_batch(columns.turns)
        self.follow_ups += columns.turns.num_rows - columns.turns.column("follow_up").null_count
        self._outcomes.add_batch(columns.outcomes)

    def __enter__(self) -> _WriteBehind:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()


def _forget_set_aside(store: Store, partition: Partition, replaced: Manifest | None) -> None:
    """Delete records set aside by exports that were killed or repeated."""

    def keys_in_use() -> set[str]:
        return _set_aside(read_manifest(store, TURNS, *partition))

    sweep(store, partition.folder(SET_ASIDE) + "export-", _set_aside(replaced), keys_in_use)


def _set_aside(manifest: Manifest | None) -> set[str]:
    """Return the keys of the records that were set aside when these parts were exported."""
    parts = manifest.parts if manifest else ()
    return {part.metadata["set_aside"] for part in parts if "set_aside" in part.metadata}
