"""Record the imports into a store, ``imports/<name>.json``, and undo them.

An import has the name of its log object, a hash of its games: importing a file again is the same import.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

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
    """The record of an import."""

    model_config = ConfigDict(frozen=True)

    log: str  # key of its log object
    file: str
    imported_at: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))  # ISO 8601
    games: int
    problems: str | None = None  # key of the records set aside
    held: dict[str, list[str]] = {}  # ids that it added to game sets, by set

    @property
    def name(self) -> str:
        """The name of the import: the hash in the log's key."""
        return self.log.rpartition("/")[2].removesuffix(".jsonl")

    @property
    def partition(self) -> Partition:
        """Round and variant of its games."""
        return partition_of(self.log)


def partition_of(key: str) -> Partition:
    """Return the partition in the key of a log object."""
    _, round, variant, _ = key.split("/")
    return Partition(int(round.removeprefix("round=")), variant.removeprefix("variant="))


def note(store: Store, record: ImportRecord) -> None:
    """Store the record of an import; an earlier record of the same games gains its `held` ids."""
    key = f"{_PREFIX}{record.name}.json"
    while True:
        data, version = store.read_version(key) or (b"", None)
        before = ImportRecord.model_validate_json(data) if data else record
        held = {
            name: sorted({*before.held.get(name, ()), *record.held.get(name, ())})
            for name in sorted({*before.held, *record.held})
        }
        updated = before.model_copy(update={"held": held}).model_dump_json(indent=1).encode()
        if updated == data or store.put_if(key, updated, version):
            return


def known(store: Store) -> list[ImportRecord]:
    """Return the imports of a store, the oldest first."""
    records = [ImportRecord.model_validate_json(store.read(key)) for key in store.keys(_PREFIX)]
    return sorted(records, key=lambda each: each.imported_at)


def find(store: Store, name: str) -> ImportRecord:
    """Return the import whose name begins with `name`. Raises ValueError unless there is exactly one."""
    records = known(store)
    matches = [each for each in records if name and each.name.startswith(name)]
    if len(matches) != 1:
        names = ", ".join(each.name[:12] for each in matches or records) or "none"
        raise ValueError(
            f"{len(matches) or 'no'} imports in {store.uri} have a name that begins with {name!r}; there are: {names}"
        )
    return matches[0]


def places(store: Store, interaction_ids: Collection[str], outside: Partition | None = None) -> dict[str, str]:
    """Map those of these interactions that are in the log already to the key of a log object.

    Exported objects are looked up in the table of outcomes; the others are read.

    Args:
        outside: a partition to leave out.
    """
    ids = set(interaction_ids)
    keys: dict[str, str] = {}
    for partition in partitions_with(store, LOGS, ".jsonl"):
        if partition == outside:
            continue
        manifest = read_manifest(store, OUTCOMES, *partition)
        lost = missing_parts(store, OUTCOMES, partition, manifest)
        parts = [part for part in (manifest.parts if manifest else ()) if part.path not in lost]
        exported = {source.key for part in parts for source in part.inputs}
        for part in parts:
            for batch in part_batches(store, OUTCOMES, partition, part, ["interaction_id"]):
                keys |= dict.fromkeys(ids.intersection(batch.column(0).to_pylist()), part.inputs[0].key)
        for key in _logs(store, partition):
            if key not in exported:
                keys |= dict.fromkeys(ids.intersection(_ids(store, key)), key)
    return keys


def require_new(store: Store, logs: Sequence[InteractionLog]) -> None:
    """Refuse games that are in the log of another round or variant, and would count twice. Raises ValueError.

    Args:
        logs: games of one round and variant.
    """
    if store.exists(logs_key(logs)):
        return  # importing again changes nothing
    here = Partition(logs[0].round, logs[0].variant)
    if not (repeated := places(store, [log.interaction_id for log in logs], outside=here)):
        return
    game, log = min(repeated.items())
    there, files = partition_of(log), {each.log: each for each in known(store)}
    source = f"imported from {files[log].file} as {files[log].name[:12]}" if log in files else log
    raise ValueError(
        f"{len(repeated)} of {len(logs)} games are in the log already: {game!r} is in round {there.round}, variant "
        f"{there.variant!r} ({source}), and would be in round {here.round}, variant {here.variant!r}, too. Import each "
        "game once; `respect import undo NAME` takes an import back, `respect import list` has their names"
    )


def undo(store: Store, record: ImportRecord) -> list[Partition]:
    """Undo an import: delete its log object, the rows made from it, and the records that it set aside.

    Feedback of its partition is deleted, and decoded again by the next round. Game sets, images, annotations and
    trained models stay. The record stays until `forget`, so that an undo that was interrupted can be repeated.

    Returns:
        The training sets that were made from its partition.

    Raises:
        ValueError: rows of the import stand in one part with those of a log that was archived.
    """
    partition = record.partition
    with lease(store, "export"):
        archived = _of_archived_logs(store, partition, record.log)
        trained = _trained_on(store, partition)
        unseen = unseen_images(read_manifest(store, TURNS, *partition))
        other_logs = [key for key in _logs(store, partition) if key != record.log]
        _drop(store, FEEDBACK, partition)
        for table in (OUTCOMES, TURNS):
            if archived[table]:
                commit(store, table, partition, archived[table])
            else:
                _drop(store, table, partition)
        for key in store.keys(partition.folder(SET_ASIDE) + "export-"):
            store.delete(key)
        store.delete(record.log)
        if record.problems and all(each.problems != record.problems for each in known(store) if each != record):
            store.delete(record.problems)
    if other_logs:
        export(store, partition.round, [partition.variant], unseen=unseen)
    return trained


def forget(store: Store, record: ImportRecord) -> None:
    """Delete the record of an import that was undone."""
    store.delete(f"{_PREFIX}{record.name}.json")


def _of_archived_logs(store: Store, partition: Partition, log: str) -> dict[str, list[Part]]:
    """Return the parts that cannot be made again, by table. Raises ValueError where one has rows of `log`."""
    logs = set(_logs(store, partition))
    archived: dict[str, list[Part]] = {}
    for table in (TURNS, OUTCOMES):
        manifest = read_manifest(store, table, *partition)
        parts = [
            part for part in (manifest.parts if manifest else ()) if any(each.key not in logs for each in part.inputs)
        ]
        for part in parts:
            sources = {each.key for each in part.inputs}
            if log in sources and sources - logs != {log}:
                lost = sorted(sources - logs - {log})[0]
                raise ValueError(
                    f"{store.uri}: rows of {log} stand in one file with those of {lost}, which was archived; put that "
                    "back, and undo the import again"
                )
        archived[table] = [part for part in parts if all(each.key != log for each in part.inputs)]
    return archived


def _trained_on(store: Store, partition: Partition) -> list[Partition]:
    """List the training sets that were made from a partition of turns."""
    source = partition.folder(TURNS) + MANIFEST
    training_sets = []
    for each in partitions(store, TRAINING_SETS):
        manifest = read_manifest(store, TRAINING_SETS, *each)
        if manifest and any(used.key == source for part in manifest.parts for used in part.inputs):
            training_sets.append(each)
    return training_sets


def _drop(store: Store, table: str, partition: Partition) -> None:
    """Delete a partition, its manifest first."""
    folder = partition.folder(table)
    store.delete(folder + MANIFEST)
    for key in store.keys(folder):
        store.delete(key)


def _logs(store: Store, partition: Partition) -> list[str]:
    return [key for key in store.keys(partition.folder(LOGS)) if key.endswith(".jsonl")]


def _ids(store: Store, key: str) -> Iterator[str]:
    """Yield the ids in a log object, of records that are JSON."""
    with closing(store.open(key)) as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and isinstance(record.get("interaction_id"), str):
                yield record["interaction_id"]
