"""Leave users out of training whose follow-ups fit nobody else's, each with a recorded reason. Not in the paper.

Two things are tested for each user against the pool of all others. Whether the labels of two decoders differ for their
turns far more often, as they do for texts written to be read in a certain way: more than twice as often. And whether
they praise everything: more than half of the actions that others do not praise. Both are binomial tests, at these rates
and not at the pool's own, since honest users differ too. Holm's correction (Scandinavian Journal of Statistics 6, 1979)
covers all users and tests of a round: the chance that any user is left out wrongly stays below `ERROR`.

A record, ``quarantine/<user>.json``, is written once. An operator releases a user by `respect quarantine --release`,
and no round leaves them out again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from respect_core.log.pseudonyms import place
from respect_core.stats import binomial_tail, holm
from respect_core.store.base import Store
from respect_core.store.sorting import sorted_groups

ERROR = 0.01
LEAST = 0.05
"""Share of turns with two labels that nobody is left out for."""


class Exclusion(BaseModel):
    """A user who is left out, and why. `found` of `turns` were unlike those of others, of whom a `share` is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user: str
    reason: str
    round: int
    turns: int
    found: int
    share: float
    p_value: float
    released_by: str = ""
    released_because: str = ""

    @property
    def active(self) -> bool:
        return not self.released_by

    def __str__(self) -> str:
        text = (
            f"user {self.user} {self.reason}: {self.found} of {self.turns} turns, of others {self.share:.1%} "
            f"(round {self.round}, p = {self.p_value:.2g})"
        )
        return text if self.active else f"{text}; released by {self.released_by}: {self.released_because}"


@dataclass
class Counts:
    """Turns of each user: `n`, and of these `found`."""

    n: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)


# --- records ----------------------------------------------------------------------------------------------------


def read(store: Store) -> list[Exclusion]:
    """Return all records, by user."""
    return [Exclusion.model_validate_json(store.read(key)) for key in sorted(store.keys("quarantine/"))]


def users(store: Store) -> list[str]:
    """Return the users who are left out."""
    return [each.user for each in read(store) if each.active]


def add(store: Store, found: Iterable[Exclusion]) -> list[Exclusion]:
    """Record users, and return those who are new; whoever was released stays so."""
    return [each for each in found if store.put_if_absent(_key(each.user), _bytes(each))]


def release(store: Store, user: str, by: str, because: str) -> Exclusion:
    """Let a user teach again. Raises ValueError where they are not left out."""
    stored = store.read_version(_key(user))
    if stored is None or not (record := Exclusion.model_validate_json(stored[0])).active:
        raise ValueError(f"user {user} is not in quarantine; `respect quarantine` lists who is")
    record = record.model_copy(update={"released_by": by or "unknown", "released_because": because})
    store.put(_key(user), _bytes(record))
    return record


def _key(user: str) -> str:
    plain = user.isascii() and user.isalnum() and len(user) <= 64
    return f"quarantine/{user if plain else hashlib.sha256(user.encode()).hexdigest()}.json"


def _bytes(record: Exclusion) -> bytes:
    return record.model_dump_json(indent=1).encode()


# --- tests ------------------------------------------------------------------------------------------------------


def suspects(differing: Mapping[str, Counts], praised: Counts, round: int) -> list[Exclusion]:
    """Return the users whom a test finds.

    Args:
        differing: turns with another label, by the name of the second decoder.
        praised: turns with a positive label.
    """
    tests: list[Exclusion] = []
    for counts, reason, limit in [
        *((counts, f"is read otherwise by the decoder {name}", _twice) for name, counts in differing.items()),
        (praised, "praises nearly everything", _half_way),
    ]:
        turns, found = counts.n.total(), counts.found.total()
        for user, n in counts.n.items():
            if others := turns - n:
                share = (found - counts.found[user]) / others
                p_value = binomial_tail(counts.found[user], n, limit(share))
                record = Exclusion(
                    user=user,
                    reason=reason,
                    round=round,
                    turns=n,
                    found=counts.found[user],
                    share=share,
                    p_value=p_value,
                )
                tests.append(record)
    chosen = holm([each.p_value for each in tests], ERROR)
    worst: dict[str, Exclusion] = {}
    for each in (test for test, wrong in zip(tests, chosen, strict=True) if wrong):
        worst[each.user] = min(each, worst.get(each.user, each), key=lambda other: other.p_value)
    return [worst[user] for user in sorted(worst)]


def _twice(share: float) -> float:
    return min(1.0, max(LEAST, 2 * share))


def _half_way(share: float) -> float:
    return (1 + share) / 2


# --- counts -----------------------------------------------------------------------------------------------------


class Owners:
    """The user of each game, in a few bytes per game."""

    def __init__(self, turns: Iterable[pa.RecordBatch]) -> None:
        keys, owners, numbers = [np.array([], np.uint64)], [np.array([], np.int32)], dict[str, int]()
        for batch in turns:
            table = pa.Table.from_batches([batch]).group_by("interaction_id", use_threads=False)
            games, users = (each.to_pylist() for each in table.aggregate([("user", "min")]).columns)
            keys.append(np.array([place(each) for each in games], np.uint64))
            owners.append(np.array([numbers.setdefault(each, len(numbers)) for each in users], np.int32))
        key, owner = np.concatenate(keys), np.concatenate(owners)
        self._key, places = np.unique(key, return_index=True)
        self._owner, self._names = owner[places], list(numbers)

    def of(self, interaction_id: str) -> str | None:
        """Return a game's user; None for an unknown game."""
        key = np.uint64(place(interaction_id))
        at = int(np.searchsorted(self._key, key))
        return self._names[self._owner[at]] if at < len(self._key) and self._key[at] == key else None


def praises(owners: Owners, labels: Iterable[pa.RecordBatch]) -> Counts:
    """Count labelled turns, and the positive ones among them."""
    counts = Counts()
    for batch in labels:
        _count(counts, owners, batch.column("interaction_id"), pc.equal(batch.column("label"), 1))
    return counts


def differences(
    owners: Owners, first: Iterable[pa.RecordBatch], second: Iterable[pa.RecordBatch], scratch: Path | None = None
) -> Counts:
    """Count turns that both have labelled, and those of them that only one calls positive."""
    counts, rows = Counts(), (_plain(batch) for each in (first, second) for batch in each)
    for group in sorted_groups(rows, ["interaction_id", "turn"], scratch):
        pairs = group.group_by(["interaction_id", "turn"], use_threads=False).aggregate(
            [([], "count_all"), ("positive", "sum")]
        )
        both = pairs.filter(pc.equal(pairs["count_all"], 2)).combine_chunks()
        _count(counts, owners, both["interaction_id"], pc.equal(both["positive_sum"], 1))
    return counts


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    names = ("interaction_id", "turn")
    columns = {name: batch.column(name) for name in names} | {"positive": pc.equal(batch.column("label"), 1)}
    return pa.RecordBatch.from_pydict(columns)


def _count(counts: Counts, owners: Owners, games: pa.Array, found: pa.Array) -> None:
    table = pa.table({"game": games, "found": found})
    sums = table.group_by("game", use_threads=False).aggregate([([], "count_all"), ("found", "sum")])
    for row in sums.to_pylist():
        if (user := owners.of(row["game"])) is not None:
            counts.n[user] += row["count_all"]
            counts.found[user] += row["found_sum"] or 0
