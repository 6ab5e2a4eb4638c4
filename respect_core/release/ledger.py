"""The ledger of promotions: which version of a model was put in front of users, when, by whom and on what evidence.

``promotions/<model>/000001.json``, 000002, ...: one immutable object an entry. Entry n+1 is made only if nobody has
made it before, so that of two who act at once one wins and the other is told. What is deployed follows from the entries
alone: a promotion puts a version on top of those before it, a rollback takes the top one off.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from respect_core.errors import ExpectedError
from respect_core.store.base import Store
from respect_core.versions import code_version


class LedgerError(ExpectedError, ValueError):
    """The ledger does not allow it, or cannot be read. The message names model, entry and remedy."""


class Action(StrEnum):
    PROMOTE = "promote"
    ROLLBACK = "rollback"


class Entry(BaseModel):
    """One change of what is deployed. Versions are written as 'respect.b-fft/3'."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    model: str
    action: Action
    from_version: str
    to_version: str
    adapter_hash: str  # of to_version
    actor: str
    reason: str = ""
    time: str  # ISO 8601, UTC
    evidence: dict[str, Any] = {}  # figures, reasons, gate, data hash, validation set; of a rollback none
    code_version: str

    def to_bytes(self) -> bytes:
        return (json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def key(model: str, number: int) -> str:
    """Where an entry lies."""
    return f"promotions/{model}/{number:06}.json"


def entries(store: Store, model: str) -> list[Entry]:
    """All entries of a model, the first first.

    Raises:
        LedgerError: an entry is missing or cannot be read.
    """
    found = []
    for number, name in enumerate(store.keys(f"promotions/{model}/"), start=1):
        if name != key(model, number):
            raise LedgerError(f"{store.uri}/{name}: expected entry {number}; restore {key(model, number)}")
        try:
            entry = Entry.model_validate_json(store.read(name))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise LedgerError(
                f"{store.uri}/{name}: field {field or '(whole)'}: {first['msg']}; restore the entry as it was written"
            ) from None
        if (entry.model, entry.number) != (model, number):
            raise LedgerError(f"{store.uri}/{name}: holds entry {entry.number} of {entry.model}; restore it")
        found.append(entry)
    return found


def models(store: Store) -> list[str]:
    """Models that have entries."""
    return sorted({name.split("/")[1] for name in store.keys("promotions/")})


def last(store: Store, model: str) -> Entry | None:
    """The entry that says what is deployed; None before the first. Raises LedgerError as `entries` does."""
    return next(reversed(entries(store, model)), None)


def promotion(history: Sequence[Entry], model: str, **fields: Any) -> Entry:
    """The entry, to be appended, that puts a version in the place of another.

    Args:
        fields: of Entry: from_version, to_version, adapter_hash, actor, reason, evidence.
    """
    return _next(history, model, action=Action.PROMOTE, **fields)


def to_roll_back(history: Sequence[Entry], model: str) -> Entry:
    """The promotion that a rollback takes back: the newest that stands. Before it, its `from_version` was deployed.

    Raises:
        LedgerError: none stands.
    """
    standing: list[Entry] = []
    for entry in history:
        if entry.action is Action.PROMOTE:
            standing.append(entry)
        elif standing:
            standing.pop()
    if not standing:
        raise LedgerError(f"{model}: no promotion to roll back; `respect ledger` shows what was deployed")
    return standing[-1]


def rollback(history: Sequence[Entry], model: str, *, adapter_hash: str, actor: str, reason: str = "") -> Entry:
    """The entry, to be appended, that puts back what was deployed before the newest promotion that stands.

    Args:
        adapter_hash: of the version that comes back, `to_roll_back(...).from_version`.

    Raises:
        LedgerError: no promotion stands, or the version was deployed earlier with another adapter.
    """
    undone = to_roll_back(history, model)
    for entry in history:
        if entry.to_version == undone.from_version and entry.adapter_hash != adapter_hash:
            raise LedgerError(
                f"{entry.to_version} had adapter {entry.adapter_hash} in entry {entry.number} and has {adapter_hash} "
                "now: the registry was changed or replaced; restore it, or promote another version"
            )
    return _next(
        history,
        model,
        action=Action.ROLLBACK,
        from_version=undone.to_version,
        to_version=undone.from_version,
        adapter_hash=adapter_hash,
        actor=actor,
        reason=reason,
    )


def append(store: Store, entry: Entry) -> None:
    """Commit an entry. Appending the very same entry again changes nothing, so that a request may be repeated.

    Raises:
        LedgerError: somebody else has made the entry of that number.
    """
    name, data = key(entry.model, entry.number), entry.to_bytes()
    if store.put_if_absent(name, data) or store.read(name) == data:
        return
    other = Entry.model_validate_json(store.read(name))
    raise LedgerError(
        f"{entry.model}: {other.actor} was first: entry {other.number} ({other.action} to {other.to_version}) was "
        "written meanwhile; look at `respect ledger` and run again"
    )


def _next(history: Sequence[Entry], model: str, **fields: Any) -> Entry:
    now = datetime.now(UTC).isoformat()
    return Entry(number=len(history) + 1, model=model, time=now, code_version=code_version(), **fields)
