"""Named sets of games beside the log: D0, the validation set, and sets held out at import.

A set is one object `game_sets/<name>.jsonl` of interaction logs. Its outcomes say which turns were right, so
that a set can serve for validation; training reads only `Interaction`s from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from respect_core.interaction import InteractionLog
from respect_core.interaction_log import read_logs
from respect_core.labels import TurnKey, right_turns
from respect_core.manifests import Input
from respect_core.store import Store

D0 = "d0"
VALIDATION = "validation"


def _key(name: str) -> str:
    return f"game_sets/{name}.jsonl"


def write(store: Store, name: str, logs: Sequence[InteractionLog]) -> None:
    """Keep a set of games under a name; a set of that name is replaced as a whole."""
    store.put(_key(name), "".join(log.model_dump_json() + "\n" for log in logs).encode())


def exists(store: Store, name: str) -> bool:
    return store.exists(_key(name))


def names(store: Store) -> list[str]:
    """The sets there are."""
    return [key.removeprefix("game_sets/").removesuffix(".jsonl") for key in store.keys("game_sets/")]


def held_out(store: Store, validation: str) -> list[str]:
    """Ids of the interactions that nothing may be trained on: of every set but D0, and of the validation set."""
    sets = {name for name in names(store) if name != D0} | {validation}
    return sorted({log.interaction_id for name in sets for log in read(store, name)})


def read(store: Store, name: str) -> list[InteractionLog]:
    """The games of a set.

    Raises:
        ValueError: there is no such set; the message lists those there are.
    """
    _require(store, name)
    return list(read_logs(store, _key(name)))


def stored(store: Store, name: str) -> Input:
    """A set as it is stored, by content, to tell whether it changed. Raises ValueError as `read` does."""
    _require(store, name)
    data = store.read(_key(name))
    return Input(key=_key(name), size=len(data), sha256=hashlib.sha256(data).hexdigest())


def _require(store: Store, name: str) -> None:
    if not exists(store, name):
        raise ValueError(
            f"no game set {name!r} in {store}; there are: {', '.join(names(store)) or 'none'}. "
            "Make one with `respect import games FILE --game-set NAME`"
        )


def curated(store: Store, name: str) -> tuple[list[InteractionLog], set[TurnKey]]:
    """The games of a set, and the turns among them whose click was right (D0 and D_val of appendix B.2).

    Both sets are small, come from people playing with people, and are curated: their outcomes may be read. No
    deployment's may.
    """
    logs = read(store, name)
    return logs, right_turns(logs)
