"""What imports brought into a store, and the way back: a record of each, ``imports/<name>.json``.

An import's name is that of its log object, a hash of its games, so that importing a file again is the same import.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing

from pydantic import BaseModel, ConfigDict

from respect_core.log.export import OUTCOMES, TURNS, export, unseen_images
from respect_core.log.log import LOGS, SET_ASIDE, logs_key
from respect_core.log.records import InteractionLog
from respect_core.store.base import Store
from respect_core.store.leases import lease
from respect_core.store.manifests import (
    MANIFEST,
    Part,
    Partition,
    missing_parts,
    partitions,
    partitions_with,
    read_manifest,
)
from respect_core.store.tables import commit, part_batches

_PREFIX = "imports/"
FEEDBACK, TRAINING_SETS = "feedback", "training_sets"


class ImportRecord(BaseModel):
    """One import."""

    model_config = ConfigDict(frozen=True)

    log: str  # key of its log object
    file: str
    imported_at: str  # ISO 8601
    games: int
    problems: str | None = None  # key of what was set aside
    held: dict[str, list[str]] = {}  # ids that it added to game sets, by set

    @property
    def name(self) -> str:
        """The hash in the log's key."""
        return self.log.rpartition("/")[2].removesuffix(".jsonl")

    @property
    def partition(self) -> Partition:
        """Round and variant of its games."""
        return partition_of(self.log)


def partition_of(key: str) -> Partition:
    """The partition in the key of a log object."""
    _, round, variant, _ = key.split("/")
    return Partition(int(round.removeprefix("round=")), variant.removeprefix("variant="))


def note(store: Store, record: ImportRecord) -> None:
    """Keep the record of an import; to an earlier one of the same games it adds what is held now."""
    key = f"{_PREFIX}{record.name}.json"
    while True:
        data, version = store.read_version(key) or (b"", None)
        before = ImportRecord.model_validate_json(data) if data else record
        held = {
            name: sorted({*before.held.get(name, ()), *record.held.get(name, ())})
            for name in sorted({*before.held, *record.held})
        }
        now = before.model_copy(update={"held": held}).model_dump_json(indent=1).encode()
        if now == data or store.put_if(key, now, version):
            return


def known(store: Store) -> list[ImportRecord]:
    """The imports of a store, the oldest first."""
    records = [ImportRecord.model_validate_json(store.read(key)) for key in store.keys(_PREFIX)]
    return sorted(records, key=lambda each: each.imported_at)


def find(store: Store, name: str) -> ImportRecord:
    """The import whose name begins so. Raises ValueError unless it is exactly one."""
    records = known(store)
    found = [each for each in records if name and each.name.startswith(name)]
    if len(found) != 1:
        names = ", ".join(each.name[:12] for each in found or records) or "none"
        raise ValueError(
            f"{len(found) or 'no'} imports in {store.uri} have a name that begins with {name!r}; there are: {names}"
        )
    return found[0]


def places(store: Store, interaction_ids: Collection[str], outside: Partition | None = None) -> dict[str, str]:
    """Of these interactions, those that are in the log already, each with the key of a log object.

    Exported objects are looked up in the table of outcomes, the others are read.

    Args:
        outside: a partition that is not looked at.
    """
    wanted = set(interaction_ids)
    found: dict[str, str] = {}
    for partition in partitions_with(store, LOGS, ".jsonl"):
        if partition == outside:
            continue
        manifest = read_manifest(store, OUTCOMES, *partition)
        lost = missing_parts(store, OUTCOMES, partition, manifest)
        parts = [part for part in (manifest.parts if manifest else ()) if part.path not in lost]
        exported = {source.key for part in parts for source in part.inputs}
        for part in parts:
            for batch in part_batches(store, OUTCOMES, partition, part, ["interaction_id"]):
                found |= dict.fromkeys(wanted.intersection(batch.column(0).to_pylist()), part.inputs[0].key)
        for key in _logs(store, partition):
            if key not in exported:
                found |= dict.fromkeys(wanted.intersection(_ids(store, key)), key)
    return found


def require_new(store: Store, logs: Sequence[InteractionLog]) -> None:
    """Raise ValueError where games are in the log of another round or variant: they would count twice.

    Args:
        logs: games of one round and variant.
    """
    if store.exists(logs_key(logs)):
        return  # importing again changes nothing
    here = Partition(logs[0].round, logs[0].variant)
    if not (found := places(store, [log.interaction_id for log in logs], outside=here)):
        return
    game, log = min(found.items())
    there, files = partition_of(log), {each.log: each for each in known(store)}
    source = f"imported from {files[log].file} as {files[log].name[:12]}" if log in files else log
    raise ValueError(
        f"{len(found)} of {len(logs)} games are in the log already: {game!r} is in round {there.round}, variant "
        f"{there.variant!r} ({source}), and would be in round {here.round}, variant {here.variant!r}, too. Import each "
        "game once; `respect import undo NAME` takes an import back, `respect import list` has their names"
    )


def undo(store: Store, record: ImportRecord) -> list[Partition]:
    """Take an import back: its log object, the rows made from it, and what it set aside.

    Feedback of its partition is deleted, and decoded again by the next round. Game sets, images, annotations, and what
    was trained stay. The record stays until `forget`: cut short at any point, it is undone by doing it again.

    Returns:
        The training sets that were made from its partition.

    Raises:
        ValueError: rows of the import stand in one part with those of a log that was archived.
    """
    partition = record.partition
    with lease(store, "export"):
        kept = _of_archived_logs(store, partition, record.log)
        trained = _trained_on(store, partition)
        unseen = unseen_images(read_manifest(store, TURNS, *partition))
        rest = [key for key in _logs(store, partition) if key != record.log]
        _drop(store, FEEDBACK, partition)
        for table in (OUTCOMES, TURNS):
            if kept[table]:
                commit(store, table, partition, kept[table])
            else:
                _drop(store, table, partition)
        for key in store.keys(partition.folder(SET_ASIDE) + "export-"):
            store.delete(key)
        store.delete(record.log)
        if record.problems and all(each.problems != record.problems for each in known(store) if each != record):
            store.delete(record.problems)
    if rest:
        export(store, partition.round, [partition.variant], unseen=unseen)
    return trained


def forget(store: Store, record: ImportRecord) -> None:
    """Delete the record of an import that was undone."""
    store.delete(f"{_PREFIX}{record.name}.json")


def _of_archived_logs(store: Store, partition: Partition, log: str) -> dict[str, list[Part]]:
    """Parts by table of which nothing can be made again. Raises ValueError where the log has a share in one."""
    there = set(_logs(store, partition))
    kept: dict[str, list[Part]] = {}
    for table in (TURNS, OUTCOMES):
        manifest = read_manifest(store, table, *partition)
        kept[table] = [
            part for part in (manifest.parts if manifest else ()) if any(each.key not in there for each in part.inputs)
        ]
        for part in kept[table]:
            sources = {each.key for each in part.inputs}
            if log in sources and sources - there != {log}:
                away = sorted(sources - there - {log})[0]
                raise ValueError(
                    f"{store.uri}: rows of {log} stand in one file with those of {away}, which was archived; put that "
                    "back, and undo the import again"
                )
        kept[table] = [part for part in kept[table] if all(each.key != log for each in part.inputs)]
    return kept


def _trained_on(store: Store, partition: Partition) -> list[Partition]:
    """Training sets that were made from a partition of turns."""
    source = partition.folder(TURNS) + MANIFEST
    found = []
    for each in partitions(store, TRAINING_SETS):
        manifest = read_manifest(store, TRAINING_SETS, *each)
        if manifest and any(used.key == source for part in manifest.parts for used in part.inputs):
            found.append(each)
    return found


def _drop(store: Store, table: str, partition: Partition) -> None:
    """Delete a partition, its manifest first."""
    folder = partition.folder(table)
    store.delete(folder + MANIFEST)
    for key in store.keys(folder):
        store.delete(key)


def _logs(store: Store, partition: Partition) -> list[str]:
    return [key for key in store.keys(partition.folder(LOGS)) if key.endswith(".jsonl")]


def _ids(store: Store, key: str) -> Iterator[str]:
    """Ids in a log object, of records that are JSON."""
    with closing(store.open(key)) as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and isinstance(record.get("interaction_id"), str):
                yield record["interaction_id"]
