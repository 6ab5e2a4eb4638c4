"""Record promotions: which version of a model was put in front of users, when, by whom and on what evidence.

``promotions/<model>/000001.json``, 000002, ...: one immutable object per entry. Entry n+1 is created only if it does
not exist yet, so that of two simultaneous writers one wins and the other gets an error. What is deployed follows from
the entries alone: a promotion pushes a version on top of those before it, a rollback pops the top one. A canary and its
end leave what is deployed as it is; a canary is in force while its entry is the last one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from respect_core.errors import ExpectedError
from respect_core.release.canary import Canary
from respect_core.store.base import Store
from respect_core.versions import code_version

Record = TypeVar("Record", bound=BaseModel)


class LedgerError(ExpectedError, ValueError):
    """A forbidden operation or an unreadable ledger. The message names model, entry and remedy."""


class Action(StrEnum):
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    CANARY = "canary"
    END = "end canary"


class Entry(BaseModel):
    """A change of the deployed version. Versions are written as 'respect.b-fft/3'."""

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
    evidence: dict[str, Any] = {}  # figures, reasons, gate, data hash, validation set; empty for a rollback
    code_version: str
    canary: Canary | None = Field(default=None, exclude_if=lambda value: value is None)  # which the entry begins


def to_bytes(record: BaseModel) -> bytes:
    """Return a record as it is stored."""
    return (json.dumps(record.model_dump(mode="json"), sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def numbered(store: Store, folder: str, kind: type[Record], name: str) -> list[Record]:
    """Return the records of a folder, which are numbered from 1 without gaps, oldest first.

    Args:
        name: of a record, in messages.

    Raises:
        LedgerError: a record is missing or cannot be read.
    """
    found = []
    for number, key in enumerate(store.keys(folder), start=1):
        expected = f"{folder}{number:06}.json"
        if key != expected:
            raise LedgerError(f"{store.uri}/{key}: expected {name} {number}; restore {expected}")
        try:
            found.append(kind.model_validate_json(store.read(key)))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "(whole)"
            raise LedgerError(
                f"{store.uri}/{key}: field {field}: {first['msg']}; restore the {name} as it was written"
            ) from None
    return found


def key(model: str, number: int) -> str:
    """Return the key of an entry."""
    return f"promotions/{model}/{number:06}.json"


def entries(store: Store, model: str) -> list[Entry]:
    """Return all entries of a model, oldest first.

    Raises:
        LedgerError: an entry is missing or cannot be read.
    """
    history = numbered(store, f"promotions/{model}/", Entry, "entry")
    for number, entry in enumerate(history, start=1):
        if (entry.model, entry.number) != (model, number):
            raise LedgerError(
                f"{store.uri}/{key(model, number)}: holds entry {entry.number} of {entry.model}; restore it"
            )
    return history


def models(store: Store) -> list[str]:
    """Return the models that have entries."""
    return sorted({name.split("/")[1] for name in store.keys("promotions/")})


def last(store: Store, model: str) -> Entry | None:
    """Return the newest entry, which says what is deployed; None if there is none.

    Raises LedgerError as `entries` does.
    """
    return next(reversed(entries(store, model)), None)


def best(history: Sequence[Entry]) -> Entry | None:
    """Return the promotion of the version that is certainly the best of all that were deployed; None for the first.

    Promotions add up what they certainly gained over the version that they replaced, so that one that passed by chance
    does not count as better than that. Of equals it is the earlier.
    """
    standing: dict[str, float] = {}
    best, most = None, 0.0
    for entry in history:
        if entry.action is Action.PROMOTE:
            gained = float(entry.evidence.get("figures", {}).get("difference_at_least", 0.0))
            reached = standing.get(entry.from_version, 0.0) + gained
            standing[entry.to_version] = reached
            if reached > most:
                best, most = entry, reached
    return best


def anchors(history: Sequence[Entry], deployed: str, seed: str) -> dict[str, str]:
    """Return the versions, by name, that a candidate may not fall behind: the best ever deployed, and the seed policy.

    One that is deployed, or is both, is not named again.
    """
    certain = best(history)
    found = {"seed": seed, "best": certain.to_version if certain else seed}
    if found["best"] == seed:
        del found["best"]
    return {name: version for name, version in found.items() if version != deployed}


def promotion(history: Sequence[Entry], model: str, **fields: Any) -> Entry:
    """Make the entry for a promotion, to be appended.

    Args:
        fields: of Entry: from_version, to_version, adapter_hash, actor, reason, evidence.
    """
    return _next(history, model, action=Action.PROMOTE, **fields)


def in_canary(history: Sequence[Entry]) -> Entry | None:
    """Return the entry of the canary in force, which is the last; None if there is none."""
    return history[-1] if history and history[-1].action is Action.CANARY else None


def begin_canary(history: Sequence[Entry], model: str, canary: Canary, **fields: Any) -> Entry:
    """Make the entry, to be appended, with which a canary begins.

    Args:
        fields: of Entry: adapter_hash of what is deployed, to_version, actor, reason, evidence.
    """
    return _next(history, model, action=Action.CANARY, from_version=fields["to_version"], canary=canary, **fields)


def end_canary(begun: Entry, **fields: Any) -> Entry:
    """Make the entry, to be appended, that ends a canary without a promotion.

    Args:
        begun: the canary's entry.
        fields: of Entry: actor, reason, and evidence, time and code_version of the look that decided, if any.
    """
    return _after(begun, action=Action.END, to_version=begun.to_version, adapter_hash=begun.adapter_hash, **fields)


def promote_canary(begun: Entry, *, evidence: dict[str, Any], **fields: Any) -> Entry:
    """Make the entry, to be appended, that promotes the candidate of a canary.

    Args:
        begun, fields: as in `end_canary`.
        evidence: of the canary; what the gate found is kept with it.
    """
    assert begun.canary is not None, "a canary's entry has it"
    version = {"to_version": begun.canary.candidate, "adapter_hash": begun.canary.adapter_hash}
    return _after(begun, action=Action.PROMOTE, evidence=begun.evidence | evidence, **version, **fields)


def to_roll_back(history: Sequence[Entry], model: str) -> Entry:
    """Return the promotion that a rollback undoes: the newest in force. It replaced its `from_version`.

    Raises:
        LedgerError: none is in force.
    """
    in_force: list[Entry] = []
    for entry in history:
        if entry.action is Action.PROMOTE:
            in_force.append(entry)
        elif entry.action is Action.ROLLBACK and in_force:
            in_force.pop()
    if not in_force:
        raise LedgerError(f"{model}: no promotion to roll back; `respect ledger` shows what was deployed")
    return in_force[-1]


def rollback(history: Sequence[Entry], model: str, *, adapter_hash: str, actor: str, reason: str = "") -> Entry:
    """Make the entry, to be appended, that restores what was deployed before the newest promotion in force.

    Args:
        adapter_hash: of the restored version, `to_roll_back(...).from_version`.

    Raises:
        LedgerError: no promotion is in force, or the version was deployed earlier with another adapter.
    """
    promoted = to_roll_back(history, model)
    for entry in history:
        if entry.to_version == promoted.from_version and entry.adapter_hash != adapter_hash:
            raise LedgerError(
                f"{entry.to_version} had adapter {entry.adapter_hash} in entry {entry.number} and has {adapter_hash} "
                "now: the registry was changed or replaced; restore it, or promote another version"
            )
    return _next(
        history,
        model,
        action=Action.ROLLBACK,
        from_version=promoted.to_version,
        to_version=promoted.from_version,
        adapter_hash=adapter_hash,
        actor=actor,
        reason=reason,
    )


def append(store: Store, entry: Entry) -> None:
    """Append an entry. Appending the very same entry again changes nothing, so that a request may be repeated.

    Raises:
        LedgerError: another writer has appended an entry of that number.
    """
    name, data = key(entry.model, entry.number), to_bytes(entry)
    if store.put_if_absent(name, data) or store.read(name) == data:
        return
    other = Entry.model_validate_json(store.read(name))
    raise LedgerError(
        f"{entry.model}: {other.actor} was first: entry {other.number} ({other.action} to {other.to_version}) was "
        "written meanwhile; look at `respect ledger` and run again"
    )


def _next(history: Sequence[Entry], model: str, **fields: Any) -> Entry:
    return _made(len(history) + 1, model, **fields)


def _after(begun: Entry, **fields: Any) -> Entry:
    """Make the entry that follows a canary's."""
    return _made(begun.number + 1, begun.model, from_version=begun.to_version, **fields)


def _made(number: int, model: str, **fields: Any) -> Entry:
    now = {"time": datetime.now(UTC).isoformat(), "code_version": code_version()}
    return Entry.model_validate({"number": number, "model": model, **now, **fields})
