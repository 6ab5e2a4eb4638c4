"""Limit how much each user teaches: quarantine, repeats, weights and caps.

Deviations from the paper, which learns from every eligible turn of every user:
1. A labelled turn of a user who is not signed in counts with a weight. It is kept with this probability, by a keyed
   hash of the turn: the expected loss is the weighted one, and neither losses nor batches change.
2. A user, a user's day, and an address prefix have a limited number of labelled turns. Games are taken in the order
   of a keyed hash, not of time, so that nobody is served first and a repeated run takes the same ones.
3. Of conversations of one user or address that are nearly the same, one counts.

Turns over a limit become context. Games wait in a file while a few numbers of each, some 50 bytes, are in memory; what
each may teach is decided from these, and the games are read again.
"""

from __future__ import annotations

import tempfile
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from respect_core.log.pseudonyms import place
from respect_core.schemas import TURNS_SCHEMA
from respect_core.store.sorting import sorted_groups
from respect_core.variants import UserLimits

WHO = [TURNS_SCHEMA.field(name) for name in ("user", "address_prefix", "day", "signed_in")]
"""Columns that tell users apart."""
WINDOW = 10
"""Conversations with which one is compared, in the order of their texts from either end (sorted neighbourhoods:
Hernández and Stolfo 1995)."""
LONGEST = 2_000
"""Characters of a conversation that are compared."""
_Numbers = NDArray[Any]


def limited(
    groups: Iterable[pa.Table],
    limits: UserLimits,
    excluded: Collection[str],
    left_out: Counter[str],
    scratch: Path | None = None,
) -> Iterator[pa.Table]:
    """Yield the games that still teach something, with labels as far as the limits allow.

    Args:
        groups: whole games, with their labels and the columns of WHO.
        excluded: users who teach nothing.
        left_out: counts labelled turns by why they became context; complete once all is yielded.
        scratch: folder for the file, the system's by default.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix="respect-") as folder:
        waiting = _Waiting(Path(folder) / "games.arrow")
        games = _Games.of(waiting.written(groups), limits, excluded, left_out)
        if limits.likeness is not None:
            games.leave_out(_repeats(games, waiting.read, limits.likeness, Path(folder)), left_out)
        games.cap(limits, left_out)
        for group in waiting.read():
            yield from games.labelled(group)


class _Waiting:
    """Games in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def written(self, groups: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield games once they are in the file."""
        options, writer = pa.ipc.IpcWriteOptions(compression="lz4"), None
        with pa.OSFile(str(self._file), "wb") as sink:
            for group in groups:
                if group.num_rows:
                    writer = writer or pa.ipc.new_file(sink, group.schema, options=options)
                    table = group.combine_chunks()
                    writer.write_table(table, max_chunksize=table.num_rows)
                    yield table
            if writer is not None:
                writer.close()

    def read(self) -> Iterator[pa.Table]:
        """Yield the games again."""
        if self._file.stat().st_size:
            with pa.OSFile(str(self._file), "rb") as source:
                reader = pa.ipc.open_file(source)
                for number in range(reader.num_record_batches):
                    yield pa.Table.from_batches([reader.get_batch(number)])


@dataclass
class _Games:
    """What is known of each game, in the order of their keys. `allowed`: labelled turns that it may keep."""

    key: _Numbers
    user: _Numbers
    address: _Numbers  # 0 where it does not count
    day: _Numbers  # 0 where it is unknown
    allowed: _Numbers

    @classmethod
    def of(
        cls, groups: Iterable[pa.Table], limits: UserLimits, excluded: Collection[str], left_out: Counter[str]
    ) -> _Games:
        """Count the turns of each game that weights and quarantine leave."""
        columns: list[list[_Numbers]] = [[_NONE], [_NONE], [_NONE], [_DAYS], [_COUNTS]]
        kept_below = _share(limits.anonymous_weight)
        for group in groups:
            starts_N, key_N = _games_of(group)
            first = group.take(np.flatnonzero(starts_N))
            anonymous_N = pc.equal(first["signed_in"], False).fill_null(False).to_numpy()
            signed_in_N = first["signed_in"].fill_null(False).to_numpy(zero_copy_only=False)
            aside_N = pc.is_in(first["user"], pa.array(sorted(excluded), pa.string())).to_numpy()
            game_T = np.cumsum(starts_N) - 1
            labelled_T = pc.is_valid(group["label"]).to_numpy()
            kept_T = labelled_T & ((_turns_of(group, key_N[game_T]) <= kept_below) | ~anonymous_N[game_T])
            labelled_N, allowed_N = (np.bincount(game_T[mask], minlength=len(key_N)) for mask in (labelled_T, kept_T))
            left_out["quarantine"] += int(labelled_N[aside_N].sum())
            left_out["thinned"] += int((labelled_N - allowed_N)[~aside_N].sum())
            address_N = np.where(signed_in_N, 0, _places(first["address_prefix"]))
            day_N = first["day"].cast(pa.int32()).fill_null(0).to_numpy()
            known = key_N, _places(first["user"]), address_N, day_N, np.where(aside_N, 0, allowed_N)
            for column, values in zip(columns, known, strict=True):
                column.append(values.astype(column[0].dtype))
        key, *others = (np.concatenate(column) for column in columns)
        order = np.argsort(key)
        return cls(key[order], *(each[order] for each in others))

    def leave_out(self, keys: Collection[int], left_out: Counter[str]) -> None:
        """Leave out games as repeats of others."""
        where = np.isin(self.key, np.array(sorted(keys), np.uint64))
        left_out["repeated"] += int(self.allowed[where].sum())
        self.allowed[where] = 0

    def cap(self, limits: UserLimits, left_out: Counter[str]) -> None:
        """Apply the caps: a user's days first, then users, then addresses."""
        before = int(self.allowed.sum())
        everybody = np.ones(len(self.key), bool)
        self._cap([self.user, self.day], self.day != 0, limits.day_turns)
        self._cap([self.user], everybody, limits.user_turns)
        self._cap([self.address], self.address != 0, limits.address_turns)
        left_out["capped"] += before - int(self.allowed.sum())

    def _cap(self, by: list[_Numbers], among: _Numbers, most: int | None) -> None:
        if most is None or not among.any():
            return
        places = np.flatnonzero(among)
        order = places[np.lexsort([each[places] for each in by])]  # stable: within a group, by key
        starts = np.any([np.diff(each[order], prepend=each[order][:1] ^ 1) != 0 for each in by], axis=0)
        allowed = self.allowed[order]
        before = np.cumsum(allowed) - allowed
        before -= before[np.flatnonzero(starts)[np.cumsum(starts) - 1]]
        self.allowed[order] = np.clip(most - before, 0, allowed)

    def labelled(self, group: pa.Table) -> Iterator[pa.Table]:
        """Yield the games of a group that keep labels, as many as they may."""
        starts_N, key_N = _games_of(group)
        game_T = np.cumsum(starts_N) - 1
        labelled_T = pc.is_valid(group["label"]).to_numpy()
        order = np.lexsort([_turns_of(group, key_N[game_T]), ~labelled_T, game_T])  # of each game, labelled turns first
        rank_T = np.empty(len(game_T), np.int64)
        rank_T[order] = np.arange(len(game_T)) - np.flatnonzero(starts_N)[game_T]
        allowed_N = self.allowed[np.searchsorted(self.key, key_N)]
        keep_T = labelled_T & (rank_T < allowed_N[game_T])
        label = pc.if_else(pa.array(keep_T), group["label"], pa.scalar(None, pa.int8()))
        table = group.set_column(group.schema.get_field_index("label"), "label", label)
        yield table.filter(pa.array((np.bincount(game_T[keep_T], minlength=len(key_N)) > 0)[game_T]))


_NONE, _DAYS, _COUNTS = np.array([], np.uint64), np.array([], np.int32), np.array([], np.int64)


def _games_of(group: pa.Table) -> tuple[_Numbers, _Numbers]:
    """Return whether each row begins a game, and the key of each game."""
    ids = group["interaction_id"].combine_chunks().dictionary_encode()
    starts_N = np.diff(ids.indices.to_numpy(), prepend=-1) != 0
    return starts_N, _places(group["interaction_id"].filter(pa.array(starts_N)))


def _places(names: pa.ChunkedArray) -> _Numbers:
    """Return the keyed hash of each name, 0 of null."""
    encoded = names.combine_chunks().dictionary_encode()
    places = np.array([*map(place, encoded.dictionary.to_pylist()), 0], np.uint64)
    return places[encoded.indices.fill_null(-1).to_numpy()]


def _turns_of(group: pa.Table, key_T: _Numbers) -> _Numbers:
    """Return a hash of each turn, by the mixing function of splitmix64 (Steele, Lea and Flood 2014)."""
    mixed = key_T + (group["turn"].to_numpy().astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    result: _Numbers = mixed ^ (mixed >> np.uint64(31))
    return result


def _share(weight: float) -> np.uint64:
    return np.uint64(min(int(weight * 2**64), 2**64 - 1))


# --- repeats ----------------------------------------------------------------------------------------------------


def _repeats(games: _Games, read: Callable[[], Iterator[pa.Table]], likeness: float, scratch: Path) -> set[int]:
    """Return the keys of games that nearly repeat another of the same user or, where it counts, address."""
    identity = np.where(games.address != 0, games.address, games.user)
    _, where, counts = np.unique(identity, return_inverse=True, return_counts=True)
    several = counts[where] > 1
    found: set[int] = set()
    if several.any():
        for backwards in (False, True):
            texts = _texts(games.key[several], identity[several], read, backwards, found)
            for group in sorted_groups(texts, ["identity", "text", "game"], scratch):
                found |= _alike(group, likeness)
    return found


_TEXTS = pa.schema([("identity", pa.string()), ("text", pa.string()), ("game", pa.uint64())])


def _texts(
    keys: _Numbers, identity: _Numbers, read: Callable[[], Iterator[pa.Table]], backwards: bool, known: set[int]
) -> Iterator[pa.RecordBatch]:
    """Yield what was said in these games, but for known repeats.

    Actions are part of it unless they refer to a context, where the same one means another thing.
    """
    for group in read():
        starts_N, key_N = _games_of(group)
        place_N = np.minimum(np.searchsorted(keys, key_N), len(keys) - 1)
        bounds = [*np.flatnonzero(starts_N), group.num_rows]
        names = ("utterance", "action", "context")
        rows = []
        for game in np.flatnonzero(keys[place_N] == key_N):
            if int(key_N[game]) not in known:
                start, stop = bounds[game], bounds[game + 1]
                said, done, context = (group[name].slice(start, stop - start).to_pylist() for name in names)
                parts = said if context[0] else [part for turn in zip(said, done, strict=True) for part in turn]
                text = " ".join(" ".join(parts).casefold().split())
                rows.append(
                    (f"{identity[place_N[game]]:016x}", (text[::-1] if backwards else text)[:LONGEST], key_N[game])
                )
        if rows:
            columns = zip(*rows, strict=True)
            yield pa.record_batch(
                [pa.array(each, kind.type) for each, kind in zip(columns, _TEXTS, strict=True)], schema=_TEXTS
            )


def _alike(group: pa.Table, likeness: float) -> set[int]:
    """Return the games of a group, in order, that are like one of the last that are not."""
    from rapidfuzz import fuzz, process

    found, before, kept = set[int](), None, deque[str](maxlen=WINDOW)
    for identity, text, game in zip(*(column.to_pylist() for column in group.columns), strict=True):
        if identity != before:
            before, kept = identity, deque(maxlen=WINDOW)
        if process.extractOne(text, kept, scorer=fuzz.ratio, score_cutoff=100 * likeness) is not None:
            found.add(game)
        else:
            kept.append(text)
    return found
