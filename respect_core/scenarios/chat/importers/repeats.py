"""Find the records that are parts of others: chunks of one conversation, and histories that a longer record repeats."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b

from respect_core.scenarios.chat.importers.conversation import Thread, merged, plain

_CHUNK = re.compile(r"(.+)_(\d+)")
_NUMBERED = re.compile(
    r"(?:.*[^a-z])?(?:conv\w*|chat|dialog\w*|identity|id|item|row|sample|sharegpt|test|train|user)", re.IGNORECASE
)
_MOST_CHUNKS, _FEW_RECORDS = 64, 8


class Repeats:
    """What a first pass over whole conversations notes, for a second pass that yields them.

    Memory holds 8 bytes for a message, and the chunk ids.
    """

    def __init__(self) -> None:
        self._prefixes = array("Q")
        self._chunks: dict[str, list[int]] = {}
        self._records = 0
        self._waiting: dict[str, list[Thread]] = {}

    def note(self, thread: Thread) -> None:
        """Take a conversation in the first pass."""
        self._records += 1
        self._prefixes.extend(_digests(thread)[:-1])
        if chunk := _chunk(thread):
            self._chunks.setdefault(chunk[0], []).append(chunk[1])

    def close(self) -> None:
        """End the first pass."""
        self._prefixes = array("Q", sorted(self._prefixes))
        most = max(_FEW_RECORDS, self._records // 2)  # ids such as doc_1, doc_2, ... number the records of a file
        self._chunks = {
            base: numbers
            for base, numbers in self._chunks.items()
            if 1 < len(numbers) == len(set(numbers)) <= min(most, _MOST_CHUNKS) and not _NUMBERED.fullmatch(base)
        }

    def is_history(self, thread: Thread) -> bool:
        """Tell whether another record repeats this one and continues."""
        digests = _digests(thread)
        if not digests:
            return False
        place = bisect_left(self._prefixes, digests[-1])
        return place < len(self._prefixes) and self._prefixes[place] == digests[-1]

    def joined(self, thread: Thread) -> Iterator[Thread]:
        """Yield a conversation; if it is a chunk, all of its conversation once the last is there."""
        base, _ = _chunk(thread) or ("", 0)
        if base not in self._chunks:
            yield thread
            return
        waiting = self._waiting.setdefault(base, [])
        waiting.append(thread)
        if len(waiting) == len(self._chunks[base]):
            yield from _joined(base, self._waiting.pop(base))


def _joined(base: str, chunks: list[Thread]) -> Iterator[Thread]:
    """Join chunks that follow each other: by their number, or by the number of their first message."""
    chunks.sort(key=lambda each: _number(each))
    whole, last = replace(chunks[0], id=base), chunks[0]
    for chunk in chunks[1:]:
        if _number(chunk) - _number(last) in (1, len(last.entries)):
            whole = replace(whole, entries=[*whole.entries, *chunk.entries])
        else:
            yield whole
            whole = replace(chunk, id=base)
        last = chunk
    yield whole


def _chunk(thread: Thread) -> tuple[str, int] | None:
    match = _CHUNK.fullmatch(thread.id or "") if thread.format == "sharegpt" else None
    return (match[1], int(match[2])) if match else None


def _number(thread: Thread) -> int:
    return (_chunk(thread) or ("", 0))[1]


def _digests(thread: Thread) -> list[int]:
    """Return a digest of all that was said up to each message."""
    digest, digests = blake2b(repr(thread.user).encode(), digest_size=8), []
    for entry in merged(each for each in thread.entries if each.message.role != "system"):
        digest.update(repr(plain(entry.message)).encode())
        digests.append(int.from_bytes(digest.digest()))
    return digests
