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
import logging
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial

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
from respect_core.store.tables import PartWriter, commit, new_part, part_batches, put_part, sweep

TURNS, OUTCOMES = "turns", "outcomes"
TRIES = 5  # of an export that others outrun


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
    turns, outcomes = _export_batch(store, partition, found.new, Seen(ids, images | without, without))
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


def _export_batch(store: Store, partition: Partition, sizes: dict[str, int], seen: Seen) -> tuple[Part, Part]:
    """One pass over log objects; stores a part of turns and one of outcomes, both still to be committed."""
    inputs: list[Input] = []
    with ExitStack() as stack:
        turns = stack.enter_context(new_part(store, TURNS, partition))
        outcomes = stack.enter_context(new_part(store, OUTCOMES, partition))
        problems = stack.enter_context(new_lines(store, partition.folder(SET_ASIDE)))
        behind = stack.enter_context(_WriteBehind(turns, outcomes))
        for key, file in stack.enter_context(closing(read_ahead(store, sizes))):
            digest, first = hashlib.sha256(), 1
            for block in blocks(file, digest):
                for accepted, refused in accept(block, first, partition, seen):
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


def _forget_set_aside(store: Store, partition: Partition, replaced: Manifest | None) -> None:
    """Delete records set aside by exports that were killed or made anew."""

    def named() -> set[str]:
        return _set_aside(read_manifest(store, TURNS, *partition))

    sweep(store, partition.folder(SET_ASIDE) + "export-", _set_aside(replaced), named)


def _set_aside(manifest: Manifest | None) -> set[str]:
    """Keys of the records that the exports of these parts set aside."""
    parts = manifest.parts if manifest else ()
    return {part.metadata["set_aside"] for part in parts if "set_aside" in part.metadata}
