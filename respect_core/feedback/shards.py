"""Decode a partition shard by shard, so that finished shards survive a crash.

A shard is a few thousand turns in the order of the table, whole interactions. The other turns of a call change scores
by rounding (`feedback.scoring`), so a shard is always decoded in one call, and its rows depend only on its turns and
on the decoder. A finished shard is stored under the hash of both, in `feedback_shards/round=R/variant=V/`, where the
next process that decodes the partition finds it. Once all shards are stored they become the partition of the `feedback`
table, and are deleted.

Memory holds one shard.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, astuple, dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from respect_core.feedback.decoder import FeedbackDecoder
from respect_core.schemas import FEEDBACK_SCHEMA
from respect_core.store import manifests, tables
from respect_core.store.base import Store
from respect_core.store.manifests import Partition
from respect_core.utterances import Vocabulary
from respect_core.variants import DecoderKind
from respect_core.versions import code_version, json_hash

SHARDS = "feedback_shards"
TURNS = 2048
"""Turns in a shard. Prompts that several shards share are scored in each; docs/failures.md says what that costs."""

Row = Mapping[str, Any]
Progress = Callable[[int, int], None]
"""Called with turns done and their total; those without a follow-up count as done with their shard."""
Chosen = Callable[[str], bool]
"""Whether to decode a game, by its id."""
Begin = Callable[[list[str]], None]
"""Called with the ids of a shard's games before it is decoded."""

_TOKENS = b"tokens"  # in the metadata of a shard's file
# Columns that the decoder reads, or repeats in its rows.
_COLUMNS = ["interaction_id", "round", "variant", "turn", "utterance", "action", "follow_up"]


@dataclass(frozen=True)
class Decoded:
    """The work of one call. Turns are those with a follow-up."""

    turns: int = 0
    found: int = 0  # of these, in shards that were stored already
    seconds: float = 0.0  # spent on decoding the others
    tokens: int = 0  # through the model for all turns, without the start that all prompts share

    def __add__(self, other: Decoded) -> Decoded:
        return Decoded(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))


def is_decoded(store: Store, partition: Partition, identity: Mapping[str, str], target: Store | None = None) -> bool:
    """Return whether the partition's feedback, in `target` if given, is this decoder's on the current turns."""
    target = target or store
    manifest = manifests.read_manifest(target, "feedback", *partition)
    turns = manifests.table_input(store, "turns", *partition)
    return (
        manifest is not None
        and all(part.inputs == (turns,) and part.metadata["decoder"] == identity for part in manifest.parts)
        and not manifests.missing_parts(target, "feedback", partition, manifest)
    )


def decode_partition(
    store: Store,
    partition: Partition,
    decoder: FeedbackDecoder,
    identity: Mapping[str, str],
    turns_per_shard: int = TURNS,
    progress: Progress | None = None,
    target: Store | None = None,
    vocabulary: Vocabulary | None = None,
    chosen: Chosen = lambda _: True,
    begin: Begin = lambda _: None,
) -> Decoded:
    """Write a partition of the `feedback` table from the same partition of `turns`, unless it is up to date.

    Args:
        identity: everything that the table depends on besides turns, for its manifest.
        vocabulary: the policies'; the manifest then counts the turns that have characters it lacks.
        target: store for shards and table; by default the one with the turns.
        chosen: whether to decode a game, by its id.
        begin: called with the ids of a shard's games before it is decoded.

    Raises:
        ValueError: an interaction whose turns are not adjacent in the table, or incomplete.
        StoreError: the store cannot be read or written; finished shards stay.
    """
    target = target or store
    if is_decoded(store, partition, identity, target):
        return Decoded()
    source, total = manifests.table_input(store, "turns", *partition), _turns(store, partition)
    result, done, keys, unreadable = Decoded(), 0, [], 0
    for turns in shards(_rows(store, partition, chosen), turns_per_shard):
        keys.append(f"{partition.folder(SHARDS)}{_hash(decoder, turns)}.parquet")
        result += _shard(target, keys[-1], decoder, turns, _within(progress, done, len(turns), total), begin)
        done += len(turns)
        unreadable += sum(vocabulary.lacks(turn["utterance"]) for turn in turns) if vocabulary else 0
        if progress is not None:
            progress(done, total)
    tables.write_partition(
        target,
        "feedback",
        *partition,
        (batch for key in keys for batch in _read(target, key).to_batches()),
        inputs=[source],
        counts={"tokens": result.tokens} | ({"unreadable": unreadable} if vocabulary else {}),
        metadata={"decoder": dict(identity), "precision": decoder.precision},
    )
    tables.sweep(target, partition.folder(SHARDS), keys, lambda: set())
    return result


def decode_shards(
    store: Store,
    partition: Partition,
    decoder: FeedbackDecoder,
    numbers: Collection[int],
    turns_per_shard: int = TURNS,
    progress: Progress | None = None,
    chosen: Chosen = lambda _: True,
) -> Decoded:
    """Store the shards with these numbers, counted from 0, for `decode_partition` to find; write no table."""
    result, done = Decoded(), 0
    folder, last = partition.folder(SHARDS), max(numbers, default=-1)
    for number, turns in enumerate(islice(shards(_rows(store, partition, chosen), turns_per_shard), last + 1)):
        if number in numbers:
            result += _shard(store, f"{folder}{_hash(decoder, turns)}.parquet", decoder, turns)
            done += 1
            if progress is not None:
                progress(done, len(numbers))
    return result


def count_unreadable(store: Store, round: int) -> int | None:
    """Count turns of a decoded round with characters that the policies' vocabulary lacks; None if not recorded."""
    partitions = manifests.partitions(store, "feedback", [round])
    read = (manifests.read_manifest(store, "feedback", *each) for each in partitions)
    by_part = [part.counts.get("unreadable") for manifest in read if manifest for part in manifest.parts]
    counts = [count for count in by_part if count is not None]
    return sum(counts) if counts else None


def count_shards(
    store: Store, partition: Partition, turns_per_shard: int = TURNS, chosen: Chosen = lambda _: True
) -> int:
    """Count the shards of the chosen games of a partition of `turns`."""
    return sum(1 for _ in shards(_rows(store, partition, chosen, ["interaction_id"]), turns_per_shard))


def try_games(store: Store, partition: Partition, decoder: FeedbackDecoder, chosen: Chosen) -> None:
    """Decode the chosen games of a partition in one call, and discard the result."""
    decoder.decode(list(_rows(store, partition, chosen)))


def shards(rows: Iterable[Row], turns: int) -> Iterator[list[Row]]:
    """Yield the rows in order, in groups of whole interactions that end once they have this many turns."""
    shard: list[Row] = []
    for row in rows:
        if len(shard) >= turns and row["interaction_id"] != shard[-1]["interaction_id"]:
            yield shard
            shard = []
        shard.append(row)
    if shard:
        yield shard


def _within(progress: Progress | None, before: int, turns: int, total: int) -> Progress | None:
    """Translate prompts done in a shard to turns done in the partition."""
    if progress is None:
        return None
    return lambda prompts, of: progress(before + turns * prompts // of, total)


def _shard(
    store: Store,
    key: str,
    decoder: FeedbackDecoder,
    turns: list[Row],
    progress: Progress | None = None,
    begin: Begin = lambda _: None,
) -> Decoded:
    """Ensure that a shard is stored: decode it unless it is."""
    if store.exists(key):
        with closing(store.open(key)) as file:
            footer = pq.read_metadata(file)
        count = footer.num_rows // len(DecoderKind)
        return Decoded(turns=count, found=count, tokens=int(footer.metadata[_TOKENS]))
    begin(sorted({row["interaction_id"] for row in turns}))
    started, before = time.monotonic(), decoder.tokens
    rows = decoder.decode(turns, progress=progress)
    seconds, tokens = time.monotonic() - started, decoder.tokens - before
    schema = FEEDBACK_SCHEMA.with_metadata({**FEEDBACK_SCHEMA.metadata, _TOKENS: str(tokens)})
    with store.spool() as path:
        with store.errors(key):
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")
        store.put_file(key, path)
    count = len(rows) // len(DecoderKind)  # there is a row of each kind for every turn
    return Decoded(turns=count, seconds=seconds, tokens=tokens)


def _read(store: Store, key: str) -> pa.Table:
    with closing(store.open(key)) as file:
        return pq.read_table(file, schema=FEEDBACK_SCHEMA)


def _turns(store: Store, partition: Partition) -> int:
    manifest = manifests.read_manifest(store, "turns", *partition)
    return manifest.rows if manifest else 0


def _rows(store: Store, partition: Partition, chosen: Chosen, columns: Sequence[str] = _COLUMNS) -> Iterator[Row]:
    for batch in tables.iter_batches(store, "turns", [partition.round], [partition.variant], columns):
        yield from (row for row in batch.to_pylist() if chosen(row["interaction_id"]))


def _hash(decoder: FeedbackDecoder, turns: list[Row]) -> str:
    """Hash everything that a shard's rows depend on. The model's folder is left out: it differs between machines."""
    config = {name: value for name, value in asdict(decoder.config).items() if name != "model"}
    return json_hash(
        [code_version("respect_core.feedback.shards"), decoder.revision, decoder.precision, config, turns]
    )[:32]
