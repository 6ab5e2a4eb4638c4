"""List the places of a store that hold what users wrote, or labels of it, and how to erase what is forgotten in each.

A place finds objects with forgotten records, and erases them one object at a time: each is replaced whole, or deleted,
so that no reader sees a half state and a killed process leaves nothing to repair. Logs come before the tables that are
made from them, as an export that runs in between must not bring rows back.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from respect_core.errors import ExpectedError
from respect_core.log import set_aside
from respect_core.log.export import OUTCOMES, TURNS, export
from respect_core.log.log import LOGS, SET_ASIDE
from respect_core.log.served_chats import CONVERSATIONS, SERVED_CHATS
from respect_core.log.spans import GAME_SETS, GAMES, game_id
from respect_core.log.tombstones import Forgotten
from respect_core.store.base import MissingKeyError, Store
from respect_core.store.manifests import (
    MANIFEST,
    ChangedError,
    Input,
    Part,
    Partition,
    partitions,
    partitions_with,
    read_manifest,
    table_input,
)
from respect_core.store.open import stores_in
from respect_core.store.parts import new_part, put_part
from respect_core.store.tables import commit, part_batches

FEEDBACK, _ANNOTATIONS = "feedback", "annotations"
_COPY = r"~(undo|clear)\d+$"  # suffix of the ids of augmented copies in training sets
_LINES = (LOGS, SERVED_CHATS, GAME_SETS, "annotation_tasks", "audit_tasks", "answers")


class BusyError(ExpectedError):
    """Another process holds the place; the message says which, and what to do."""


@dataclass(frozen=True)
class Found:
    """An object with forgotten records, and how many these are."""

    key: str
    records: int


class Place(ABC):
    """A place that holds what users wrote."""

    name: str

    @abstractmethod
    def find(self, forgotten: Forgotten) -> Iterator[Found]:
        """Yield the objects that have something forgotten. Raises BusyError."""

    @abstractmethod
    def erase(self, found: Found, forgotten: Forgotten) -> str | None:
        """Erase it from the object; return the SHA-256 of what that holds now, or None where it is gone."""


def store_places(store: Store) -> list[Place]:
    """Return the places of a store, in the order in which they are erased."""
    decoded = [store, *stores_in(store, "redecoded").values()]
    return [
        *(Lines(store, prefix) for prefix in _LINES),
        GameRecords(store),
        Assigned(store),
        Reasons(store),
        TurnsAndOutcomes(store),
        EmptyLogs(store),
        *(Rows(each, FEEDBACK) for each in decoded),
        *(Shards(each) for each in decoded),
        Rows(store, "training_sets"),
        Rows(store, _ANNOTATIONS),
        Probabilities(store),
    ]


class Lines(Place):
    """Objects of JSON lines, such as logs and game sets. An empty log is deleted once no table is made from it."""

    def __init__(self, store: Store, prefix: str) -> None:
        self.name, self._store = prefix, store

    def find(self, forgotten: Forgotten) -> Iterator[Found]:
        for key in self._store.keys(f"{self.name}/"):
            with closing(self._store.open(key)) as file:
                count = sum(forgotten.has_line(line) for line in file)
            if count:
                yield Found(key, count)

    def erase(self, found: Found, forgotten: Forgotten) -> str | None:
        while (current := self._store.read_version(found.key)) is not None:
            kept = forgotten.kept(current[0])
            if not kept and self.name != LOGS:
                self._store.delete(found.key)
            elif self._store.put_if(found.key, kept, current[1]):
                return _hash(kept)
        return None


class _Objects(Place):
    """Objects that are deleted whole if they are forgotten."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def erase(self, found: Found, forgotten: Forgotten) -> str | None:  # noqa: ARG002  # of a place
        self._store.delete(found.key)
        return None


class GameRecords(_Objects):
    """Whole records of games; one of two people goes with either of them."""

    name = GAMES

    def find(self, forgotten: Forgotten) -> Iterator[Found]:
        for key in self._store.keys(f"{GAMES}/"):
            record = json.loads(self._store.read(key))
            users = record["users"].values()
            if game_id(record) in forgotten.interactions or any(
                forgotten.has_user(user, record["started_at"]) for user in users
            ):
                yield Found(key, 1)


class Assigned(_Objects):
    """Versions of the gateways' conversations."""

    name = CONVERSATIONS

    def find(self, forgotten: Forgotten) -> Iterator[Found]:
        stored = set(self._store.keys(f"{CONVERSATIONS}/")) if forgotten.conversations else set[str]()
        keys = {f"{CONVERSATIONS}/{name[:2]}/{name}.json" for name in forgotten.conversations}
        yield from (Found(key, 1) for key in sorted(keys & stored))


class Shards(_Objects):
    """Shards of a decoding that was interrupted."""

    name = "feedback_shards"

    def find(self, forgotten: Forgotten) -> Iterator[Found]:
        for key in self._store.keys("feedback_shards/"):
            with closing(self._store.open(key)) as file:
                ids = pq.read_table(file, columns=["interaction_id"])["interaction_id"]
            if count := _count(ids, forgotten):
                yield Found(key, count)


class Reasons(Place):
    """Reasons of records that were set aside: whose they were is not known, so all lose what they quote."""

    name = SET_ASIDE

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, forgotten: Forgotten) -> Iterator[Found]:
        for key in self._store.keys(f"{SET_ASIDE}/"):
            lines = self._store.read(key).splitlines(keepends=True)
            if count := sum(self._redacted(line, forgotten) != line for line in lines):
                yield Found(key, count)

    def erase(self, found: Found, forgotten: Forgotten) -> str | None:
        lines = self._store.read(found.key).splitlines(keepends=True)
        if kept := b"".join(self._redacted(line, forgotten) for line in lines):
            self._store.put(found.key, kept)
            return _hash(kept)
        self._store.delete(found.key)
        return None

    def _redacted(self, line: bytes, forgotten: Forgotten) -> bytes:
        problem = json.loads(line)
        if problem.get("record") in forgotten.interactions:
            return b""
        reason = problem.get("reason", "")
        if (bare := set_aside.without_values(reason)) == reason:
            return line
        return json.dumps(problem | {"reason": bare}, sort_keys=True).encode() + line[len(line.rstrip(b"\n")) :]


class Probabilities(Place):
    """Probabilities that were computed for logs that lack them, by interaction."""

    name = "propensities"

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, forgotten: Forgotten) -> Iterator[Found]:
        for key in self._store.keys(f"{self.name}/"):
            if count := len(forgotten.interactions & json.loads(self._store.read(key)).keys()):
                yield Found(key, count)

    def erase(self, found: Found, forgotten: Forgotten) -> str | None:
        known = json.loads(self._store.read(found.key))
        data = json.dumps({name: p for name, p in known.items() if name not in forgotten.interactions}).encode()
        self._store.put(found.key, data)
        return _hash(data)


class Rows(Place):
    """Rows of a table. Parts that have none of them stay as they are."""

    def __init__(self, store: Store, table: str) -> None:
        self._store, self.name = store, table

    def find(self, forgotten: Forgotten) -> Iterator[Found]:
        for partition in partitions(self._store, self.name):
            if count := _rows(self._store, self.name, partition, forgotten):
                yield Found(partition.folder(self.name), count)

    def erase(self, found: Found, forgotten: Forgotten) -> str | None:
        return _filter(self._store, self.name, _partition(found.key), forgotten)


class TurnsAndOutcomes(Place):
    """The tables that logs are exported to. Parts whose logs are archived are filtered, the others exported again.

    Feedback stays decoded: it is what the remaining turns would be decoded as.
    """

    name = "turns and outcomes"

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, forgotten: Forgotten) -> Iterator[Found]:
        for table in (OUTCOMES, TURNS):
            yield from Rows(self._store, table).find(forgotten)

    def erase(self, found: Found, forgotten: Forgotten) -> str | None:
        store, partition = self._store, _partition(found.key)
        with _decoded(store, partition, forgotten):
            if any(key.endswith(".jsonl") for key in store.keys(partition.folder(LOGS))):
                export(store, partition.round, [partition.variant])
            return [_filter(store, table, partition, forgotten) for table in (OUTCOMES, TURNS)][-1]


@contextmanager
def _decoded(store: Store, partition: Partition, forgotten: Forgotten) -> Iterator[None]:
    """Let feedback that is up to date stay so: turns that nobody removes would be decoded as they were."""
    before, rows = read_manifest(store, TURNS, *partition), _rows(store, TURNS, partition, forgotten)
    source = table_input(store, TURNS, *partition) if before else None
    yield
    after, feedback = (read_manifest(store, table, *partition) for table in (TURNS, FEEDBACK))
    if not before or not after or not feedback or after.rows != before.rows - rows:
        return
    if all(part.inputs == (source,) for part in feedback.parts):
        now = (table_input(store, TURNS, *partition),)
        parts = [part.model_copy(update={"inputs": now}) for part in feedback.parts]
        with suppress(ChangedError):  # then it is decoded again
            commit(store, FEEDBACK, partition, parts, replaces=feedback)


class EmptyLogs(Place):
    """Logs that have lost all their records: the tables stop naming them, then they are deleted."""

    name = "empty logs"

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, forgotten: Forgotten) -> Iterator[Found]:  # noqa: ARG002  # of a place
        for partition in partitions_with(self._store, LOGS, ".jsonl"):
            if empty := self._empty(partition):
                yield Found(partition.folder(LOGS), len(empty))

    def erase(self, found: Found, forgotten: Forgotten) -> str | None:
        partition = _partition(found.key)
        empty = self._empty(partition)
        with _decoded(self._store, partition, forgotten):
            export(self._store, partition.round, [partition.variant])
            for table in (OUTCOMES, TURNS):
                _filter(self._store, table, partition, forgotten, empty)
        for key in sorted(empty):
            self._store.delete(key)
        return None

    def _empty(self, partition: Partition) -> set[str]:
        return {key for key, size in self._store.sizes(partition.folder(LOGS)).items() if not size}


def _filter(
    store: Store, table: str, partition: Partition, forgotten: Forgotten, gone: Collection[str] = ()
) -> str | None:
    """Replace a partition by its rows that are not forgotten; return the hash of its manifest, None if none are left.

    Args:
        gone: inputs that are about to be deleted, and have no rows.
    """
    while (manifest := read_manifest(store, table, *partition)) is not None:
        filtered = (_filtered(store, table, partition, part, forgotten, gone) for part in manifest.parts)
        parts = [part for part in filtered if part is not None]
        if tuple(parts) == manifest.parts:
            return _hash(manifest.to_bytes())
        if not any(part.rows for part in parts):
            _drop(store, table, partition)
            return None
        with suppress(ChangedError):  # another process was faster: filter what it made
            return _hash(commit(store, table, partition, parts, replaces=manifest).to_bytes())
    return None


def _filtered(
    store: Store, table: str, partition: Partition, part: Part, forgotten: Forgotten, gone: Collection[str]
) -> Part | None:
    """Return the part without what is forgotten; None where nothing is left that it was made from."""
    inputs = tuple(each for each in part.inputs if each.key not in gone)
    if part.inputs and not inputs:
        return None
    if table == _ANNOTATIONS:
        inputs = tuple(_current(store, each) for each in inputs)
    if not _part_rows(store, table, partition, part, forgotten):
        return part.model_copy(update={"inputs": inputs})
    games, follow_ups = set[str](), 0
    with new_part(store, table, partition) as writer:
        for batch in part_batches(store, table, partition, part):
            kept = batch.filter(pc.invert(_is_forgotten(batch.column("interaction_id"), forgotten)))
            games.update(kept.column("interaction_id").unique().to_pylist())
            follow_ups += kept.num_rows - kept.column("follow_up").null_count if table == TURNS else 0
            writer.add_batch(kept)
        made = {"games": len(games), "turns": writer.rows, "turns_with_followup": follow_ups}
        counts = {name: made.get(name, count) for name, count in part.counts.items()}
        counts |= {_ANNOTATIONS: writer.rows} if table == _ANNOTATIONS else {}
        return put_part(store, writer, inputs, counts, part.metadata)


def _drop(store: Store, table: str, partition: Partition) -> None:
    """Delete a partition, its manifest first."""
    folder = partition.folder(table)
    store.delete(folder + MANIFEST)
    for key in store.keys(folder):
        store.delete(key)


def _current(store: Store, source: Input) -> Input:
    """Return an input as it is now; as it was, where it is gone."""
    try:
        return Input.of(source.key, store.read(source.key))
    except MissingKeyError:
        return source


def _rows(store: Store, table: str, partition: Partition, forgotten: Forgotten) -> int:
    manifest = read_manifest(store, table, *partition)
    return sum(_part_rows(store, table, partition, part, forgotten) for part in (manifest.parts if manifest else ()))


def _part_rows(store: Store, table: str, partition: Partition, part: Part, forgotten: Forgotten) -> int:
    batches = part_batches(store, table, partition, part, ["interaction_id"])
    return sum(_count(batch.column(0), forgotten) for batch in batches)


def _count(ids: pa.ChunkedArray | pa.Array, forgotten: Forgotten) -> int:
    return int(pc.sum(_is_forgotten(ids, forgotten)).as_py() or 0)


def _is_forgotten(ids: pa.ChunkedArray | pa.Array, forgotten: Forgotten) -> pa.ChunkedArray | pa.Array:
    """Tell which rows are of forgotten interactions, or of copies of them."""
    return pc.is_in(pc.replace_substring_regex(ids, _COPY, ""), pa.array(sorted(forgotten.interactions), pa.string()))


def _partition(folder: str) -> Partition:
    round, variant = folder.split("/")[-3:-1]
    return Partition(int(round.removeprefix("round=")), variant.removeprefix("variant="))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
