"""Append to and read the log of interactions in the store, and describe the records that are set aside.

A deployment appends batches: each is one immutable object of JSON lines at
``interactions/round=5/variant=b-fft/<hash>.jsonl``, named by its contents, so that appending a batch again
changes nothing. Where a batch may be played again with another outcome or timing, its writer names it instead, after
what was to be played: the first batch appended under a name counts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from reprlib import repr as brief
from typing import BinaryIO

from pydantic import ValidationError

from respect_core.errors import ExpectedError
from respect_core.log import tombstones
from respect_core.log.records import InteractionLog
from respect_core.schemas import SCHEMA_VERSION
from respect_core.store.base import Store
from respect_core.store.manifests import Partition

LOGS = "interactions"
SET_ASIDE = "set_aside"
_FIELD_IN_MESSAGE = re.compile(r"(turns\[\d+\]\.\w+|outcome\.targets|context|scenario)\b")
_REMEDIES = {
    "missing": "add the field at its source",
    "extra_forbidden": "remove the field, or write it under its name in the schema",
    "json_invalid": "restore the line from where it was written; it may have been cut short",
}


@dataclass(frozen=True)
class Problem:
    """The reason why a record is not used: where it is, which field, what is wrong, and what to do."""

    object: str  # key in the store, or name of the imported file
    record: str  # "line 3", or the record's own id
    field: str  # e.g. turns[2].action; "" when it is the record as a whole
    reason: str
    remedy: str

    def to_json(self) -> bytes:
        """Return canonical JSON, as stored under ``set_aside/``."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    def __str__(self) -> str:
        field = f", field {self.field}" if self.field else ""
        return f"{self.object}, {self.record}{field}: {self.reason}; {self.remedy}"


class RecordError(ExpectedError, ValueError):
    """A record cannot be used. `at` turns it into a Problem once the record's place is known."""

    def __init__(self, field: str, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.field, self.reason, self.remedy = field, reason, remedy

    def at(self, object: str, record: str) -> Problem:
        """Return the problem of a record in this place."""
        return Problem(object, record, self.field, self.reason, self.remedy)


def parse_record(line: bytes) -> InteractionLog:
    """Read one line of a log. Raises RecordError."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise RecordError("", f"invalid UTF-8 at byte {error.start}", "write the log in UTF-8") from None
    try:
        return InteractionLog.model_validate_json(text)
    except ValidationError as error:
        raise _broken(text) or from_validation(error) from None


def _broken(text: str) -> RecordError | None:
    """Return why a line is not a record of this release at all; None where it may be one."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        return RecordError("", f"not JSON: {error}", _REMEDIES["json_invalid"])
    if not isinstance(fields, dict):
        return RecordError("", f"a JSON {type(fields).__name__}, not an object", "write one interaction on each line")
    version = fields.get("schema_version", SCHEMA_VERSION)
    if type(version) is not int or version != SCHEMA_VERSION:
        return RecordError(
            "schema_version", f"version {brief(version)} is not known", "export it with the release that wrote it"
        )
    return None


def from_validation(error: ValidationError) -> RecordError:
    """Return the first of pydantic's complaints, with field and remedy."""
    first = error.errors(include_url=False)[0]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).removeprefix(".")
    reason = first["msg"].removeprefix("Value error, ")
    if not field and (match := _FIELD_IN_MESSAGE.match(reason)):
        field = match[1]
    elif not field and reason.startswith("Invalid isoformat"):
        field = "started_at"
    if first["type"] not in ("missing", "value_error") and "input" in first:
        reason += f", not {brief(first['input'])}"
    return RecordError(field, reason, _REMEDIES.get(first["type"], "correct the field at its source and append again"))


class Lines:
    """A file of JSON lines to store, named by its contents."""

    def __init__(self, store: Store, path: Path, file: BinaryIO) -> None:
        self._store, self._path, self._file = store, path, file
        self._digest = hashlib.sha256()
        self.count = 0

    def add(self, line: bytes) -> None:
        """Append a line, passed without its line end."""
        self._digest.update(line + b"\n")
        self._file.write(line + b"\n")
        self.count += 1

    def leave_out(self, line: bytes) -> None:
        """Let a line count for the name alone."""
        self._digest.update(line + b"\n")

    def put(self, prefix: str, name: str | None = None) -> str:
        """Store the lines, if any, under `name` or their hash, unless they are stored already; return the key."""
        key = f"{prefix}{name or self._digest.hexdigest()[:32]}.jsonl"
        with self._store.errors(key):
            self._file.flush()
        if self.count and not self._store.exists(key):
            self._store.put_file(key, self._path)
        return key


@contextmanager
def new_lines(store: Store, name: str) -> Iterator[Lines]:
    """Yield lines to fill, in a file in `scratch`, deleted at the end unless put. `name` is for error messages."""
    with store.spool() as path, store.errors(name), path.open("wb") as file:
        yield Lines(store, path, file)


def find_logs(store: Store, partition: Partition, name: str) -> str | None:
    """Return the key of the batch appended under a name; None where there is none."""
    key = f"{partition.folder(LOGS)}{name}.jsonl"
    return key if store.exists(key) else None


def logs_key(logs: Sequence[InteractionLog]) -> str:
    """Return the key under which `append_logs` stores these interactions of one round and variant."""
    digest = hashlib.sha256()
    for log in logs:
        digest.update(log.model_dump_json().encode() + b"\n")
    return f"{Partition(logs[0].round, logs[0].variant).folder(LOGS)}{digest.hexdigest()[:32]}.jsonl"


def append_logs(store: Store, logs: Iterable[InteractionLog], name: str | None = None) -> str:
    """Append finished interactions of one round and variant as one object; return its key.

    Memory holds one interaction. An existing batch of that name, or with the same contents, stays as it is. What is
    forgotten is left out, also of a batch whose user is forgotten at that moment.

    Raises ValueError for no logs, or logs of several rounds or variants.
    """
    partition: Partition | None = None
    forgotten = tombstones.read(store)
    with new_lines(store, LOGS) as lines:
        for log in logs:
            if partition not in (None, (log.round, log.variant)):
                raise ValueError(
                    f"interaction {log.interaction_id}: round {log.round}, variant {log.variant!r} in a batch of "
                    f"{partition}; append each round and variant by itself"
                )
            partition = Partition(log.round, log.variant)
            line = log.model_dump_json().encode()
            (lines.leave_out if forgotten.has_line(line) else lines.add)(line)
        if partition is None:
            raise ValueError("no interactions to append; call with at least one")
        key = lines.put(partition.folder(LOGS), name)
    tombstones.leave_out(store, key, forgotten)
    return key


def read_logs(store: Store, key: str) -> Iterator[InteractionLog]:
    """Yield the interactions of one log object. Raises RecordError at a broken line, which `log.export` skips."""
    with closing(store.open(key)) as file:
        for line in file:
            yield parse_record(line)
