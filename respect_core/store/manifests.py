"""Read manifests: what a partition of a table consists of, what it was made from, and by which code.

A partition is ``<table>/round=5/variant=b-fft/``; its ``_manifest.json`` is written last, which commits it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from respect_core.errors import ExpectedError
from respect_core.schemas import SCHEMA_VERSION
from respect_core.store.base import MissingKeyError, Store, StoreError

MANIFEST = "_manifest.json"
_VARIANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class TableError(ExpectedError, ValueError):
    """A table cannot be read or written. The message names table, field and remedy."""


class ChangedError(StoreError):
    """Another process has replaced the partition. To retry with its new contents is safe, and helps."""


class Partition(NamedTuple):
    """One round of one variant."""

    round: int
    variant: str

    def folder(self, name: str) -> str:
        """Return the prefix of the partition's keys in the table or log `name`, ending in a slash."""
        if self.round < 0 or not _VARIANT.fullmatch(self.variant):
            raise TableError(
                f"{name}: round {self.round}, variant {self.variant!r} cannot name a partition; "
                "rounds count from 0, variants are letters, digits, '.', '_', '+', '-'"
            )
        return f"{name}/round={self.round}/variant={self.variant}/"


class _Json(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Input(_Json):
    """A source of a table, identified by its contents."""

    key: str
    size: int
    sha256: str

    @classmethod
    def of(cls, key: str, data: bytes) -> Input:
        """Return the object under a key that holds these bytes as an input."""
        return cls(key=key, size=len(data), sha256=hashlib.sha256(data).hexdigest())


class Part(_Json):
    """One file of a partition, with its sources and its writer's counts and notes."""

    path: str
    sha256: str
    rows: int
    inputs: tuple[Input, ...] = ()
    counts: dict[str, int] = {}
    metadata: dict[str, Any] = {}


class Manifest(_Json):
    """The contents of a partition: its parts, and the code that wrote it."""

    table: str
    round: int
    variant: str
    schema_version: int = SCHEMA_VERSION
    code_version: str
    parts: tuple[Part, ...]
    metadata: dict[str, Any] = {}

    @property
    def rows(self) -> int:
        """Rows of the partition."""
        return sum(part.rows for part in self.parts)

    @property
    def counts(self) -> dict[str, int]:
        """The parts' counts, added up."""
        names = sorted({name for part in self.parts for name in part.counts})
        return {name: sum(part.counts.get(name, 0) for part in self.parts) for name in names}

    def to_bytes(self) -> bytes:
        """Return canonical JSON: the same manifest gives the same bytes."""
        return (json.dumps(self.model_dump(), sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def partitions(
    store: Store, name: str, rounds: Iterable[int] | None = None, variants: Iterable[str] | None = None
) -> list[Partition]:
    """List a table's committed partitions of these rounds and variants (None: all), in order."""
    return partitions_with(store, name, MANIFEST, rounds, variants)


def partitions_with(
    store: Store,
    name: str,
    ending: str,
    rounds: Iterable[int] | None = None,
    variants: Iterable[str] | None = None,
) -> list[Partition]:
    """List the partitions under `name` that hold a key with this ending, in order."""
    pattern = re.compile(rf"{re.escape(name)}/round=(\d+)/variant=([^/]+)/[^/]*{re.escape(ending)}")
    stored = {Partition(int(match[1]), match[2]) for key in store.keys(f"{name}/") if (match := pattern.fullmatch(key))}
    of_rounds = None if rounds is None else set(rounds)
    of_variants = None if variants is None else set(variants)
    return sorted(
        each
        for each in stored
        if (of_rounds is None or each.round in of_rounds) and (of_variants is None or each.variant in of_variants)
    )


def read_manifest(store: Store, name: str, round: int, variant: str) -> Manifest | None:
    """Read the manifest of a partition; None where it was never committed. Raises TableError if it is unreadable."""
    key = Partition(round, variant).folder(name) + MANIFEST
    try:
        return Manifest.model_validate_json(store.read(key))
    except MissingKeyError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise TableError(
            f"{store.uri}/{key}: field {field or '(whole)'}: {first['msg']}; delete the partition and make it again"
        ) from None


def missing_parts(store: Store, name: str, partition: Partition, manifest: Manifest | None) -> set[str]:
    """List the paths of parts that a manifest names and the store has lost."""
    if manifest is None:
        return set()
    folder = partition.folder(name)
    return {part.path for part in manifest.parts} - {key.removeprefix(folder) for key in store.keys(folder + "part-")}


def table_input(store: Store, name: str, round: int, variant: str) -> Input:
    """Return the partition as an input of another table, by its manifest's hash. Raises MissingKeyError."""
    key = Partition(round, variant).folder(name) + MANIFEST
    return Input.of(key, store.read(key))
