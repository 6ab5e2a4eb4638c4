"""What each registered adapter learned from, kept for good: from a version to its data, and from a turn or user back.

``lineage/<model>/<version>.parquet``: one immutable object a version, with a row for each turn of its training set and
a description (`Lineage`) in the file's metadata. Tables are replaced when they are made anew; this is not, so that it
names every input by the hash that it had.

A user is a pseudonym. Turns of D0, which a round rehearses, count by the game that they were copied from.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from respect_core.errors import ExpectedError
from respect_core.store.base import MissingKeyError, Store
from respect_core.store.manifests import Input, Manifest, Partition
from respect_core.store.tables import iter_batches, read_manifest, table_input
from respect_core.versions import code_version

LEARNED_SCHEMA = pa.schema(
    [
        pa.field("interaction_id", pa.string(), nullable=False),
        pa.field("turn", pa.int32(), nullable=False),
        pa.field("user", pa.string()),  # null where no log of the game is left
        pa.field("label", pa.int8()),  # null: context only
        pa.field("source", pa.string(), nullable=False),  # round | rehearsal | undo | clear
    ]
)
_DESCRIPTION = b"lineage"
_TURNS = re.compile(r"turns/round=(?P<round>\d+)/variant=(?P<variant>[^/]+)/_manifest\.json")
_COPY = r"~(undo|clear)\d+$"  # ends the ids of games that augmentation copied (respect_core.training_data.rehearsal)


class LineageError(ExpectedError, ValueError):
    """What an adapter learned from cannot be told. The message names version and remedy."""


class _Json(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Json):
    """Something that a training set was made from: a table's manifest or a game set, by hash, and what is behind it.

    `decoder` of a feedback table; `logs` of a turns table. Both are empty where the table was made anew before the
    version was registered.
    """

    input: Input
    decoder: dict[str, str] = {}
    logs: tuple[Input, ...] = ()


class Lineage(_Json):
    """Where a version comes from. Versions are written as 'respect.b-fft/3'.

    `parent`: the version before it; `continued`: whether its weights go on from the parent's.
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
    """A version that learned from what was asked for. `turns`: interaction id, turn, label, source of each.

    `through`: the ancestor whose weights it goes on from, where it did not itself learn from it.
    """

    version: str
    turns: tuple[tuple[str, int, int | None, str], ...] = ()
    through: str | None = None


def key(version: str) -> str:
    """Where the lineage of a version lies."""
    return f"lineage/{version}.parquet"


# --- writing ------------------------------------------------------------------------------------------------------


def data_hash(manifest: Manifest) -> str:
    """What a training set is identified by: equal hashes, equal rows."""
    return hashlib.sha256(json.dumps([part.sha256 for part in manifest.parts]).encode()).hexdigest()


def describe(
    store: Store,
    version: str,
    partition: Partition,
    d0: tuple[Input, Mapping[str, str]] | None,
    **described: Any,
) -> tuple[Lineage, pa.Table]:
    """The lineage of an adapter that was trained on a training set, and its rows in LEARNED_SCHEMA.

    Args:
        version: may be filled in later, where the number is not known yet.
        partition: of the training set.
        d0: the game set that was rehearsed, and the user of each of its games.
        described: fields of Lineage: run_id, adapter_hash, parent, continued, data_hash.

    Raises:
        LineageError: the training set is gone or was made anew from other data.
    """
    manifest = read_manifest(store, "training_sets", *partition)
    if manifest is None or data_hash(manifest) != described["data_hash"]:
        raise LineageError(
            f"{version}: its training set in {partition.folder('training_sets')} is "
            f"{'gone' if manifest is None else 'another by now'}, so what it learned from cannot be told; "
            "run its round again"
        )
    inputs = [each for part in manifest.parts for each in part.inputs]
    lineage = Lineage(
        version=version,
        variant=partition.variant,
        round=partition.round,
        training_set=table_input(store, "training_sets", *partition),
        sources=(*(_source(store, each) for each in inputs), *([Source(input=d0[0])] if d0 else [])),
        counts=manifest.counts,
        code_version=code_version(),
        **described,
    )
    return lineage, _rows(store, partition, inputs, d0[1] if d0 else {})


def write(store: Store, lineage: Lineage, rows: pa.Table) -> None:
    """Keep the lineage of a version, unless there is one: the first that was written stays."""
    buffer = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata({_DESCRIPTION: lineage.model_dump_json()}), buffer, compression="zstd")
    store.put_if_absent(key(lineage.version), buffer.getvalue())


def _source(store: Store, used: Input) -> Source:
    try:
        data = store.read(used.key)
    except MissingKeyError:
        return Source(input=used)
    if hashlib.sha256(data).hexdigest() != used.sha256:
        return Source(input=used)
    parts = Manifest.model_validate_json(data).parts
    logs = tuple(each for part in parts for each in part.inputs) if _TURNS.fullmatch(used.key) else ()
    decoder: dict[str, str] = next((part.metadata["decoder"] for part in parts if "decoder" in part.metadata), {})
    return Source(input=used, decoder=decoder, logs=logs)


def _rows(store: Store, partition: Partition, inputs: list[Input], d0_users: Mapping[str, str]) -> pa.Table:
    """LEARNED_SCHEMA of a training set; memory holds its ids, labels and users."""
    columns = [name for name in LEARNED_SCHEMA.names if name != "user"]
    batches = list(iter_batches(store, "training_sets", [partition.round], [partition.variant], columns))
    table = pa.Table.from_batches(batches, LEARNED_SCHEMA.remove(LEARNED_SCHEMA.get_field_index("user")))
    games = set(table["interaction_id"].unique().to_pylist())
    users = dict(d0_users)
    for match in (_TURNS.fullmatch(each.key) for each in inputs):
        if match:
            where = [int(match["round"])], [match["variant"]], ["interaction_id", "user"]
            for batch in iter_batches(store, "turns", *where):
                rows = zip(*(batch.column(name).to_pylist() for name in where[2]), strict=True)
                users.update((game, user) for game, user in rows if game in games)
    found = [users.get(game) for game in _originals(table["interaction_id"]).to_pylist()]
    return table.append_column("user", pa.array(found, pa.string())).select(LEARNED_SCHEMA.names).cast(LEARNED_SCHEMA)


# --- reading ------------------------------------------------------------------------------------------------------


def read(store: Store, version: str) -> Lineage | None:
    """The description of a version; None where none was recorded. Raises LineageError when it is unreadable."""
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
    """Versions with a lineage, by model and number."""
    found = [name.removeprefix("lineage/").removesuffix(".parquet") for name in store.keys("lineage/")]
    return sorted(found, key=lambda version: (version.rpartition("/")[0], int(version.rpartition("/")[2])))


def learned_turns(store: Store, version: str) -> pa.Table:
    """LEARNED_SCHEMA of a version. Raises MissingKeyError."""
    with closing(store.open(key(version))) as file:
        return pq.read_table(file)


def feedback_by_user(store: Store, version: str) -> Counter[str]:
    """Turns of deployments that the version learned from, with a label, by user; D0 is curated and does not count."""
    table = learned_turns(store, version)
    chosen = table.filter(pc.and_(pc.equal(table["source"], "round"), pc.is_valid(table["label"])))
    return Counter(user or "unknown" for user in chosen["user"].to_pylist())


def games(store: Store, version: str) -> set[str]:
    """Interactions in the version's training set, as context too; copies count as the game. Raises MissingKeyError."""
    return set(_originals(learned_turns(store, version)["interaction_id"]).to_pylist())


def weights(store: Store, version: str) -> Iterator[str]:
    """The version, then those whose weights it goes on from, the nearest first, as far as lineages were recorded."""
    name: str | None = version
    while name is not None:
        yield name
        lineage = read(store, name)
        name = lineage.parent if lineage is not None and lineage.continued else None


def learned_from(
    store: Store, *, interaction_id: str | None = None, turn: int | None = None, user: str | None = None
) -> list[Learned]:
    """Versions that learned from a turn, an interaction or a user, and those that go on from the weights of such.

    Context counts: a turn without a label of its own was read by the model all the same.
    """
    wanted = {"interaction_id": interaction_id, "turn": turn, "user": user}
    asked = {name: value for name, value in wanted.items() if value is not None}
    if not asked:
        raise LineageError("name a turn, an interaction or a user")
    direct = {version: tuple(_matching(store, version, asked)) for version in versions(store)}
    touched = {version for version, turns in direct.items() if turns}
    found = []
    for version in direct:
        nearest = next((each for each in weights(store, version) if each in touched), None)
        if nearest is not None:
            found.append(Learned(version, direct[version], through=None if nearest == version else nearest))
    return found


def _matching(store: Store, version: str, asked: Mapping[str, Any]) -> Iterator[tuple[str, int, int | None, str]]:
    """Rows of a version where all columns asked for have those values; copies of a game count as the game."""
    table = learned_turns(store, version)
    for name, value in asked.items():
        column = table[name]
        if name == "interaction_id":
            column = _originals(column)
        table = table.filter(pc.equal(column, value))
    names = ("interaction_id", "turn", "label", "source")
    yield from zip(*(table[name].to_pylist() for name in names), strict=True)


def _originals(interaction_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """The games that copies were made from; others are their own."""
    return pc.replace_substring_regex(interaction_ids, _COPY, "")
