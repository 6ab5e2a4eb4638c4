"""Record permanently what each registered adapter learned from, and query it by version, turn or user.

``lineage/<model>/<version>.parquet``: one immutable object per version, with a row for each turn of its training set
and a description (`Lineage`) in the file's metadata. Tables are replaced when they are rebuilt; lineage is not, so it
names every input by the hash that it had.

A user is a pseudonym. Turns of D0, which a round rehearses, count towards the game that they were copied from.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from respect_core.errors import ExpectedError
from respect_core.log import tombstones
from respect_core.log.tombstones import Why
from respect_core.store.base import MissingKeyError, Store
from respect_core.store.manifests import Input, Manifest, Partition, read_manifest, table_input
from respect_core.store.tables import iter_batches
from respect_core.versions import code_version

LEARNED_SCHEMA = pa.schema(
    [
        pa.field("interaction_id", pa.string(), nullable=False),
        pa.field("turn", pa.int32(), nullable=False),
        pa.field("user", pa.string()),  # null where the game's log no longer exists
        pa.field("label", pa.int8()),  # null: context only
        pa.field("source", pa.string(), nullable=False),  # round | rehearsal | undo | clear
        pa.field("address_prefix", pa.string()),  # of a user who was not signed in, where the log has it
    ]
)
_DESCRIPTION = b"lineage"
_TURNS = re.compile(r"turns/round=(?P<round>\d+)/variant=(?P<variant>[^/]+)/_manifest\.json")
_COPY = r"~(undo|clear)\d+$"  # suffix of the ids of augmented copies (respect_core.training_data.rehearsal)


class LineageError(ExpectedError, ValueError):
    """A version whose training data cannot be determined. The message names version and remedy."""


class _Json(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Json):
    """An input of a training set, such as a table's manifest or a game set, by hash, and that input's own inputs.

    `decoder` of a feedback table; `logs` of a turns table. Both are empty where the table was rebuilt before the
    version was registered.
    """

    input: Input
    decoder: dict[str, str] = {}
    logs: tuple[Input, ...] = ()


class Lineage(_Json):
    """The origin of a version. Versions are written as 'respect.b-fft/3'.

    `parent`: the version before it; `continued`: whether training started from the parent's weights.
    """

    version: str
    variant: str
    round: int
    run_id: str
    adapter_hash: str
    parent: str | None
    continued: bool
    data_hash: str
    training_set: Input
    sources: tuple[Source, ...]
    counts: dict[str, int]
    code_version: str


@dataclass(frozen=True)
class Learned:
    """A version that learned from the requested data. `turns`: interaction id, turn, label, source of each.

    `through`: the ancestor that learned from the data and whose weights this version continues; None where it learned
    from the data itself.
    """

    version: str
    turns: tuple[tuple[str, int, int | None, str], ...] = ()
    through: str | None = None


def key(version: str) -> str:
    """Return the key of a version's lineage."""
    return f"lineage/{version}.parquet"


# --- writing ------------------------------------------------------------------------------------------------------


def data_hash(manifest: Manifest) -> str:
    """Return the hash that identifies a training set: equal hashes, equal rows."""
    return hashlib.sha256(json.dumps([part.sha256 for part in manifest.parts]).encode()).hexdigest()


def describe(
    store: Store,
    version: str,
    partition: Partition,
    d0: tuple[Input, Mapping[str, str]] | None,
    **described: Any,
) -> tuple[Lineage, pa.Table]:
    """Return the lineage of an adapter trained on a training set, and the set's rows in LEARNED_SCHEMA.

    Args:
        version: may be a placeholder while the number is not known yet.
        partition: of the training set.
        d0: the game set that was rehearsed, and the user of each of its games.
        described: fields of Lineage: run_id, adapter_hash, parent, continued, data_hash.

    Raises:
        LineageError: the training set is gone or was rebuilt from other data.
    """
    manifest = read_manifest(store, "training_sets", *partition)
    if manifest is None or data_hash(manifest) != described["data_hash"]:
        raise LineageError(
            f"{version}: its training set in {partition.folder('training_sets')} is "
            f"{'gone' if manifest is None else 'no longer the same'}, so what it learned from cannot be told; "
            "run its round again"
        )
    inputs = [origin for part in manifest.parts for origin in part.inputs]
    lineage = Lineage(
        version=version,
        variant=partition.variant,
        round=partition.round,
        training_set=table_input(store, "training_sets", *partition),
        sources=(*(_source(store, origin) for origin in inputs), *([Source(input=d0[0])] if d0 else [])),
        counts=manifest.counts,
        code_version=code_version(),
        **described,
    )
    return lineage, _rows(store, partition, inputs, d0[1] if d0 else {})


def write(store: Store, lineage: Lineage, rows: pa.Table) -> None:
    """Store the lineage of a version, unless it has one: the first to be written stays."""
    buffer = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata({_DESCRIPTION: lineage.model_dump_json()}), buffer, compression="zstd")
    store.put_if_absent(key(lineage.version), buffer.getvalue())


def _source(store: Store, origin: Input) -> Source:
    try:
        data = store.read(origin.key)
    except MissingKeyError:
        return Source(input=origin)
    if hashlib.sha256(data).hexdigest() != origin.sha256:
        return Source(input=origin)
    parts = Manifest.model_validate_json(data).parts
    logs = tuple(log for part in parts for log in part.inputs) if _TURNS.fullmatch(origin.key) else ()
    decoder: dict[str, str] = next((part.metadata["decoder"] for part in parts if "decoder" in part.metadata), {})
    return Source(input=origin, decoder=decoder, logs=logs)


def _rows(store: Store, partition: Partition, inputs: list[Input], d0_users: Mapping[str, str]) -> pa.Table:
    """Return a training set's rows in LEARNED_SCHEMA. Memory holds its ids, labels and users."""
    columns = [name for name in LEARNED_SCHEMA.names if name not in ("user", "address_prefix")]
    batches = list(iter_batches(store, "training_sets", [partition.round], [partition.variant], columns))
    table = pa.Table.from_batches(batches, pa.schema([LEARNED_SCHEMA.field(name) for name in columns]))
    games = set(table["interaction_id"].unique().to_pylist())
    users, addresses = dict(d0_users), dict[str, str]()
    names = ["interaction_id", "user", "address_prefix", "signed_in"]
    for round, variant in _turns_partitions(inputs):
        for batch in iter_batches(store, "turns", [round], [variant], names):
            for game, user, address, signed_in in zip(*(each.to_pylist() for each in batch.columns), strict=True):
                if game in games:
                    users[game] = user
                    if address and not signed_in:
                        addresses[game] = address
    originals = _originals(table["interaction_id"]).to_pylist()
    return (
        table.append_column("user", pa.array(map(users.get, originals), pa.string()))
        .append_column("address_prefix", pa.array(map(addresses.get, originals), pa.string()))
        .select(LEARNED_SCHEMA.names)
        .cast(LEARNED_SCHEMA)
    )


def _turns_partitions(inputs: Iterable[Input]) -> list[tuple[int, str]]:
    """Return round and variant of the tables of turns among these."""
    matches = (_TURNS.fullmatch(origin.key) for origin in inputs)
    return [(int(match["round"]), match["variant"]) for match in matches if match]


# --- reading ------------------------------------------------------------------------------------------------------


def read(store: Store, version: str) -> Lineage | None:
    """Read the description of a version; None where none was recorded. Raises LineageError when it is unreadable."""
    try:
        with closing(store.open(key(version))) as file:
            return Lineage.model_validate_json(pq.read_schema(file).metadata[_DESCRIPTION])
    except MissingKeyError:
        return None
    except (pa.ArrowException, ValidationError, KeyError, TypeError) as error:
        raise LineageError(
            f"{store.uri}/{key(version)}: no lineage can be read from it ({error}); restore the object"
        ) from None


def versions(store: Store) -> list[str]:
    """Return the versions that have a lineage, by model and number."""
    names = [name.removeprefix("lineage/").removesuffix(".parquet") for name in store.keys("lineage/")]
    return sorted(names, key=lambda version: (version.rpartition("/")[0], int(version.rpartition("/")[2])))


def turns_of(lineage: Lineage) -> list[tuple[int, str]]:
    """Return round and variant of the tables of turns that a version learned from."""
    return _turns_partitions(source.input for source in lineage.sources)


def learned_turns(store: Store, version: str) -> pa.Table:
    """Return a version's rows in LEARNED_SCHEMA. Raises MissingKeyError."""
    with closing(store.open(key(version))) as file:
        table = pq.read_table(file)
    for each in LEARNED_SCHEMA:
        if each.name not in table.schema.names:  # recorded by an earlier release
            table = table.append_column(each, pa.nulls(len(table), each.type))
    return table


def feedback_by_user(store: Store, version: str) -> Counter[str]:
    """Count the labelled turns of deployments that the version learned from, by user; D0 does not count."""
    return Counter(user or "unknown" for user in _with_feedback(store, version)["user"].to_pylist())


def feedback_by_address(store: Store, version: str) -> Counter[str]:
    """Count the same turns by address prefix, those of users who were not signed in and whose network is known."""
    return Counter(_with_feedback(store, version)["address_prefix"].drop_null().to_pylist())


def _with_feedback(store: Store, version: str) -> pa.Table:
    table = learned_turns(store, version)
    return table.filter(pc.and_(pc.equal(table["source"], "round"), pc.is_valid(table["label"])))


def games(store: Store, version: str) -> set[str]:
    """Return the interactions in the version's training set, also those that are context only. Raises MissingKeyError.

    A copy counts as its game.
    """
    return set(_originals(learned_turns(store, version)["interaction_id"]).to_pylist())


def weights(store: Store, version: str) -> Iterator[str]:
    """Yield the version, then the ancestors whose weights it continues, nearest first, as far as lineages reach."""
    name: str | None = version
    while name is not None:
        yield name
        lineage = read(store, name)
        name = lineage.parent if lineage is not None and lineage.continued else None


def learned_from(
    store: Store, *, interaction_id: str | None = None, turn: int | None = None, user: str | None = None
) -> list[Learned]:
    """Return versions that learned from a turn, an interaction or a user, or continue such a version's weights.

    Context counts: the model also read turns that have no label of their own.
    """
    criteria = {"interaction_id": interaction_id, "turn": turn, "user": user}
    query = {name: value for name, value in criteria.items() if value is not None}
    if not query:
        raise LineageError("name a turn, an interaction or a user")
    return _with_descendants(store, {version: tuple(_matching(store, version, query)) for version in versions(store)})


def tainted(store: Store) -> list[Learned]:
    """Return versions that learned from what users had forgotten, or continue such a version's weights.

    What is only old does not count. A version that learned later from a user's new data is not among them.
    """
    told = [each for each in tombstones.tombstones(store) if each.why is not Why.AGE]
    forgotten = pa.array(sorted({name for each in told for name in each.interactions}), pa.string())
    if not len(forgotten):
        return []

    def rows(version: str) -> tuple[tuple[str, int, int | None, str], ...]:
        table = learned_turns(store, version)
        return tuple(_rows_of(table.filter(pc.is_in(_originals(table["interaction_id"]), forgotten))))

    return _with_descendants(store, {version: rows(version) for version in versions(store)})


def _with_descendants(
    store: Store, direct: Mapping[str, tuple[tuple[str, int, int | None, str], ...]]
) -> list[Learned]:
    touched = {version for version, turns in direct.items() if turns}
    learned = []
    for version in direct:
        nearest = next((ancestor for ancestor in weights(store, version) if ancestor in touched), None)
        if nearest is not None:
            learned.append(Learned(version, direct[version], through=None if nearest == version else nearest))
    return learned


def _matching(store: Store, version: str, query: Mapping[str, Any]) -> Iterator[tuple[str, int, int | None, str]]:
    """Yield a version's rows that have these values in these columns; a copy of a game counts as the game."""
    table = learned_turns(store, version)
    for name, value in query.items():
        column = table[name]
        if name == "interaction_id":
            column = _originals(column)
        table = table.filter(pc.equal(column, value))
    return _rows_of(table)


def _rows_of(table: pa.Table) -> Iterator[tuple[str, int, int | None, str]]:
    names = ("interaction_id", "turn", "label", "source")
    yield from zip(*(table[name].to_pylist() for name in names), strict=True)


def _originals(interaction_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Map copies to the games that they were made from, and other games to themselves."""
    return pc.replace_substring_regex(interaction_ids, _COPY, "")
