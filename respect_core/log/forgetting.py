"""Forget users, single interactions, and what is old: first a tombstone, then everything that holds their words.

Every step can be repeated. If a process is killed after the tombstone, whatever uses the data next completes the work
(`settled`), and so does forgetting again. What stays for good: ids, pseudonyms and labels in `lineage/`, without which
nobody could tell which versions learned from a user, and receipts (``forgotten/receipts/``) of what was erased.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from respect_core.log import spans, tombstones
from respect_core.log.forgotten_places import BusyError, Place, store_places
from respect_core.log.spans import Span
from respect_core.log.tombstones import FOLDER, ForgettingError, Forgotten, Tombstone, Why, moment
from respect_core.store.base import MissingKeyError, Store
from respect_core.store.leases import lease
from respect_core.store.manifests import ChangedError

_TRIES = 5  # passes over a place, until nothing is found
_DAYS = re.compile(r"(\d{1,5})d")

Result = TypeVar("Result")


@dataclass
class Erased:
    """What was done in a place: forgotten records, hashes of the objects that lost some, and deleted objects."""

    records: int = 0
    rewritten: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)


@dataclass
class Receipt:
    """What was forgotten, by place. `left`: places that are in use, and what to do. It has no word and no user id."""

    tombstone: Tombstone
    places: dict[str, Erased] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    tainted: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        """The key in the store."""
        when = re.sub(r"[-:]", "", self.tombstone.at.partition("+")[0])
        return f"{FOLDER}/receipts/{when}-{self.tombstone.key.rpartition('/')[2]}"

    def to_json(self) -> dict[str, Any]:
        """Return it as it is stored."""
        told = self.tombstone.model_dump(mode="json", exclude={"interactions", "conversations", "erased"})
        found = {name: len(getattr(self.tombstone, name)) for name in ("interactions", "conversations")}
        places = {name: vars(each) for name, each in self.places.items()}
        return {**told, **found, "places": places, "left": self.left, "tainted": self.tainted}


# --- what to forget -------------------------------------------------------------------------------------------------


def user(pseudonym: str) -> Tombstone:
    """Return the tombstone of all that a user began so far. Raises ForgettingError for what is no pseudonym."""
    now = tombstones.now()
    made = Tombstone(why=Why.USER, user=pseudonym, before=now, at=now)
    assert made.key
    return made


def interaction(store: Store, name: str) -> Tombstone:
    """Return the tombstone of one interaction, or of one conversation with a gateway, by the id that logs have.

    Raises:
        ForgettingError: there is none with that id, and never was one that was forgotten.
    """
    now = tombstones.now()
    served = {key for key, span in spans.conversations(store).items() if name in (key, *span.interactions)}
    known = served or name in spans.interactions(store)
    for old in [each for each in tombstones.tombstones(store) if each.why is Why.INTERACTION]:
        if name in (*old.interactions, *old.conversations):
            return old.model_copy(update={"at": now})
    if not known:
        raise ForgettingError(f"no interaction or conversation in {store.uri} has that id; take it from the log")
    made = Tombstone(why=Why.INTERACTION, name=next(iter(served), name), before=now, at=now)
    return made.model_copy(update={"conversations": tuple(served)} if served else {"interactions": (name,)})


def older_than(age: str) -> Tombstone:
    """Return the tombstone of what ended a number of days ago, such as '90d'. Raises ForgettingError otherwise."""
    if not (days := _DAYS.fullmatch(age)) or not int(days[1]):
        raise ForgettingError(f"{age[:20]!r} is no age: write a number of days, such as 90d")
    now = datetime.now(UTC)
    before = (now - timedelta(days=int(days[1]))).isoformat(timespec="microseconds")
    return Tombstone(why=Why.AGE, before=before, at=now.isoformat(timespec="microseconds"))


def _found(store: Store, wanted: Tombstone) -> Tombstone:
    """Return the tombstone with the ids of what it covers in the store now."""
    served = spans.conversations(store)
    alone = spans.interactions(store, curated=wanted.why is not Why.AGE)
    before = moment(wanted.before)

    def covers(name: str, span: Span) -> bool:
        if wanted.why is Why.USER:
            return span.is_of(str(wanted.user), before)
        if wanted.why is Why.AGE:
            return span.is_older(before)
        return name in wanted.conversations or not span.interactions.isdisjoint(wanted.interactions)

    conversations = {name for name, span in served.items() if covers(name, span)}
    ids = set(wanted.interactions) if wanted.why is Why.INTERACTION else set[str]()
    ids |= {name for name, span in alone.items() if wanted.why is not Why.INTERACTION and covers(name, span)}
    if wanted.why is Why.AGE:  # what became of a conversation that is not over stays with it
        ids -= {each for name, span in served.items() if name not in conversations for each in span.interactions}
    ids |= {each for name in conversations for each in served[name].interactions}
    return wanted.model_copy(
        update={
            "interactions": tuple(sorted({*wanted.interactions, *ids})),
            "conversations": tuple(sorted({*wanted.conversations, *conversations})),
        }
    )


# --- forget -----------------------------------------------------------------------------------------------------------


def forget(
    store: Store,
    wanted: Tombstone,
    places: Sequence[Place] = (),
    tainted: Callable[[], Sequence[str]] = lambda: (),
) -> Receipt:
    """Put a tombstone, then erase what it covers, and what earlier tombstones left; store and return the receipt.

    Args:
        places: others than the store's.
        tainted: returns the versions that learned from what is forgotten.

    Raises:
        StoreError, TableError: as reading and writing do. Forgetting again completes it.
    """
    finish(store)
    put = tombstones.put(store, _found(store, wanted))
    receipt = Receipt(put)
    with lease(store, "forget"):
        receipt.tombstone = put = _erase_from_store(store, put, receipt)
        _erase(places, Forgotten.by([*tombstones.tombstones(store), put]), receipt)
        receipt.tainted = list(tainted())
        store.put(receipt.key, json.dumps(receipt.to_json(), indent=1, sort_keys=True).encode())
    return receipt


def finish(store: Store) -> None:
    """Complete in the store what was begun to be forgotten."""
    if all(each.erased for each in tombstones.tombstones(store)):
        return
    with lease(store, "forget"):
        for each in tombstones.tombstones(store):
            if not each.erased:
                _erase_from_store(store, each, Receipt(each))


def settled(store: Store, work: Callable[[], Result]) -> Result:
    """Do work that copies what users said; do it again if somebody was forgotten meanwhile."""
    while True:
        finish(store)
        before = tombstones.read(store)
        result = work()
        if tombstones.read(store) == before:
            return result


def _erase_from_store(store: Store, tombstone: Tombstone, receipt: Receipt) -> Tombstone:
    """Erase what a tombstone covers; return it as it is then. The caller holds the lease."""
    for name in ("collect", "export"):  # from here on, collections and exports know of the tombstone
        with lease(store, name):
            pass
    put = tombstones.put(store, _found(store, tombstone))
    _erase(store_places(store), Forgotten.by([put]), receipt)
    tombstones.mark_erased(store, put)
    return put


def _erase(places: Sequence[Place], forgotten: Forgotten, receipt: Receipt) -> None:
    for place in places:
        done = receipt.places.setdefault(place.name, Erased())
        for tries in range(_TRIES):
            try:
                if not _erase_once(place, forgotten, done):
                    break
            except BusyError as error:
                receipt.left[place.name] = str(error)
                break
            except (ChangedError, MissingKeyError):  # another process has replaced what was just listed
                if tries == _TRIES - 1:
                    raise


def _erase_once(place: Place, forgotten: Forgotten, done: Erased) -> bool:
    """Erase what is found in a place; return whether there was anything."""
    found = list(place.find(forgotten))
    for each in found:
        digest = place.erase(each, forgotten)
        done.records += each.records
        if digest is None:
            done.rewritten.pop(each.key, None)
            done.dropped.append(each.key)
        else:
            done.rewritten[each.key] = digest
    return bool(found)
