"""Store named sets of games apart from the log: D0, the validation and gate sets, and sets held out at import.

A set is one object `game_sets/<name>.jsonl` of interaction logs, from which training reads only `Interaction`s. D0 and
D_val (appendix B.2) are small, come from people playing with people, and are curated: their outcomes may be read to
find the turns that were right (`measuring.labels.right_turns`). The outcomes of deployments may not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from respect_core.log import tombstones
from respect_core.log.log import parse_record, read_logs
from respect_core.log.records import InteractionLog
from respect_core.store.base import Store
from respect_core.store.manifests import Input

D0 = "d0"
VALIDATION = "validation"
GATE = "gate"
"""The set that judges candidates for promotion, and chooses nothing."""


def place(name: str) -> float:
    """Return a name's place from 0 up to 1, by its hash: a share of games or users is those with a place below it."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 16**8


def _key(name: str) -> str:
    return f"game_sets/{name}.jsonl"


def write(store: Store, name: str, logs: Sequence[InteractionLog]) -> None:
    """Store a set of games under a name, in place of any set of that name."""
    store.put(_key(name), _lines(logs))


def add(store: Store, name: str, logs: Sequence[InteractionLog]) -> list[str]:
    """Add games to a set, which is created if absent, and return the ids of the new ones. Others stay unchanged.

    What is forgotten is left out.

    Raises:
        ValueError: no games; or games would be both trained on, in D0, and held out, in another set.
    """
    if not logs:
        raise ValueError(f"no games for the set {name!r}: raise the share, or import more games")
    forgotten = tombstones.read(store)
    logs = [log for log in logs if not forgotten.has_line(_lines([log]))]
    ids = {log.interaction_id for log in logs}
    for other in [each for each in names(store) if each != name and D0 in (each, name)]:
        if both := sorted(ids.intersection(log.interaction_id for log in read(store, other))):
            held_out_in = other if name == D0 else name
            raise ValueError(
                f"{len(both)} games, {both[0]!r} among them, would be in {D0!r}, which is trained on, and held "
                f"out in {held_out_in!r}; give the sets games of their own"
            )
    while True:
        data, version = store.read_version(_key(name)) or (b"", None)
        present = {log.interaction_id for log in map(parse_record, data.splitlines())}
        new = [log for log in logs if log.interaction_id not in present]
        if not new or store.put_if(_key(name), data + _lines(new), version):
            return [log.interaction_id for log in new]


def remove(store: Store, name: str, interaction_ids: Collection[str]) -> None:
    """Take games out of a set; delete the set if none is left."""
    while (current := store.read_version(_key(name))) is not None:
        data, version = current
        logs = [log for log in map(parse_record, data.splitlines()) if log.interaction_id not in interaction_ids]
        if not logs:
            store.delete(_key(name))
        elif store.put_if(_key(name), _lines(logs), version):
            return


def _lines(logs: Sequence[InteractionLog]) -> bytes:
    return "".join(log.model_dump_json() + "\n" for log in logs).encode()


def exists(store: Store, name: str) -> bool:
    return store.exists(_key(name))


def names(store: Store) -> list[str]:
    """Return the names of all sets."""
    return [key.removeprefix("game_sets/").removesuffix(".jsonl") for key in store.keys("game_sets/")]


def held_out(store: Store, validation: str) -> list[str]:
    """Return the ids of interactions that no training may use: those of the validation set and all sets but D0."""
    sets = {name for name in names(store) if name != D0} | {validation}
    return sorted({log.interaction_id for name in sets for log in read(store, name)})


def read(store: Store, name: str) -> list[InteractionLog]:
    """Read the games of a set.

    Raises:
        ValueError: there is no such set; the message lists all sets.
    """
    _require(store, name)
    return list(read_logs(store, _key(name)))


def stored(store: Store, name: str) -> Input:
    """Return a stored set's key and content hash, to detect changes. Raises ValueError as `read` does."""
    _require(store, name)
    return Input.of(_key(name), store.read(_key(name)))


def _require(store: Store, name: str) -> None:
    if not exists(store, name):
        raise ValueError(
            f"no game set {name!r} in {store}; there are: {', '.join(names(store)) or 'none'}. "
            "Make one with `respect import games FILE --game-set NAME`, or with `respect import chats LOGS`"
        )
