"""Read conversations from chat logs in any of the known formats.

Files are read twice. The first pass takes what only makes sense together: requests to stitch, trees to join, ratings,
and which records repeat which. The second streams the conversations that are a record each, so that memory does not
grow with their texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from respect_core.log.log import RecordError
from respect_core.scenarios.chat.importers import detect
from respect_core.scenarios.chat.importers.conversation import Conversation, Source, Thread, answered, fingerprint
from respect_core.scenarios.chat.importers.files import ChatLogError, find, records
from respect_core.scenarios.chat.importers.redact import Redactor
from respect_core.scenarios.chat.importers.repeats import Repeats
from respect_core.scenarios.chat.importers.stitch import (
    Owner,
    Rating,
    Request,
    Stitcher,
    background,
    duplicate,
    is_background,
)
from respect_core.scenarios.chat.importers.summary import Imported, Place
from respect_core.scenarios.chat.importers.trees import Forest, Tree


class NothingUsableError(ChatLogError):
    """A log was read, and no conversation is in it."""


def read_conversations(
    paths: Sequence[Path], format: str | None = None, redact: bool = True, imported: Imported | None = None
) -> Iterator[Conversation]:
    """Yield the conversations of chat logs, each once.

    Records that are not understood are set aside, with reasons, in the summary. Texts stay as they are but for what is
    masked; whoever stores them brings utterances to normal form and makes pseudonyms of users.

    Args:
        paths: files, folders and patterns.
        format: the format of all records; by default it is found out for each.
        redact: mask personal data.
        imported: the summary to fill.

    Raises:
        ChatLogError: a path has no log, the format is not known, or no record is usable (NothingUsableError).
    """
    imported = imported if imported is not None else Imported()
    if format not in (None, *detect.NAMES):
        raise ChatLogError(f"format {format!r} is not known; there are: {', '.join(detect.NAMES)}")
    log = _Log(list(find(paths)), format, imported)
    redactor = Redactor(imported.masked) if redact else None
    fingerprints, ids = set[bytes](), Counter[str]()
    for thread in log.threads():
        try:
            result = answered(thread)
            if len(result.turns) == 1 and is_background(result.turns[0].utterance):
                raise background()
            if (key := bytes.fromhex(fingerprint(result))[:12]) in fingerprints:
                raise duplicate()
        except RecordError as error:
            imported.put_aside(error.at(*thread.source))
            continue
        fingerprints.add(key)
        result = redactor.conversation(result) if redactor else result
        name = result.id or fingerprint(result)
        ids[name] += 1
        result = replace(result, id=name if ids[name] == 1 else f"{name}-{ids[name]}")
        imported.add(result, thread.format)
        yield result
    if not imported.conversations:
        raise NothingUsableError(str(imported))


class _Log:
    """The records of a log's files."""

    def __init__(self, files: list[tuple[Path, str]], format: str | None, imported: Imported) -> None:
        self._files, self._format, self._imported = files, format, imported
        self._stitcher, self._forest, self._repeats = Stitcher(), Forest(), Repeats()
        self._ratings: dict[str, Rating] = {}
        self._scales: set[str] = set()  # names of scores that are no thumbs

    def threads(self) -> Iterator[Thread]:
        """Yield the conversations in all files, duplicates included."""
        whole = [file for file in self._files if self._gather(*file)]
        self._repeats.close()
        for path, name in whole:
            for thread in self._read(path, name, Imported()):
                if not isinstance(thread, Thread):
                    continue
                if self._repeats.is_history(thread):
                    reason = "a history that a longer record repeats"
                    self._imported.put_aside(
                        RecordError("", reason, "none: its turns are counted there").at(*thread.source)
                    )
                else:
                    yield from self._repeats.joined(thread)
        thumbs = {
            target: each.value
            for target, each in self._ratings.items()
            if each.value is not None and each.name not in self._scales
        }
        for item in self._stitcher.threads(thumbs):
            if isinstance(item, Request):
                self._imported.put_aside(duplicate().at(*item.source))
            else:
                yield item
        yield from self._forest.threads(thumbs)

    def _gather(self, path: Path, name: str) -> bool:
        """Make the first pass over a file; tell whether the second finds conversations in it."""
        whole = False
        for item in self._read(path, name, self._imported):
            if isinstance(item, Thread):
                whole = True
                self._repeats.note(item)
            elif isinstance(item, Rating):
                self._ratings[item.target] = item
                if item.value is None:
                    self._scales.add(item.name)
            elif isinstance(item, Owner):
                self._stitcher.owners[item.trace] = item
        return whole

    def _read(self, path: Path, name: str, imported: Imported) -> Iterator[Any]:
        """Yield what the records of a file hold; requests and trees are taken in the first pass alone."""
        first_pass = imported is self._imported
        for record, content in records(path):
            for value in detect.unwrapped(content):
                source = Source(name, record)
                imported.records += 1
                for item in self._items(value, Place(source, imported)):
                    if isinstance(item, RecordError):
                        imported.put_aside(item.at(*source))
                    elif first_pass and isinstance(item, Request | Tree):
                        self._take(item, imported)
                    else:
                        yield item

    def _items(self, value: Any, place: Place) -> Iterator[Any]:
        try:
            if isinstance(value, RecordError):
                raise value
            if not isinstance(value, dict):
                raise RecordError("", "a record that is no object", "write each record as a JSON object")
            format = detect.format_of(value, self._format)
            for item in format.read(value, place):
                if isinstance(item, Thread | Request | Tree):
                    item.format = format.name
                yield item
        except RecordError as error:
            yield error
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:  # whatever a stranger wrote
            yield RecordError("", f"not the shape of its format ({type(error).__name__})", f"correct it: {error}")

    def _take(self, item: Request | Tree, imported: Imported) -> None:
        try:
            if isinstance(item, Request):
                self._stitcher.add(item)
            elif not self._forest.add(item) and not item.snapshot:
                raise duplicate()
        except RecordError as error:
            imported.put_aside(error.at(*item.source))
