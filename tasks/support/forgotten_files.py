"""Erase what users said from a run's folder on this machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from respect_core.log import served_chats
from respect_core.log.forgotten_places import BusyError, Found, Place
from respect_core.log.served_chats import SERVED_CHATS
from respect_core.log.tombstones import Forgotten
from respect_core.store.line_log import LineLog
from tasks.support.files import write_whole
from tasks.support.workspace import Workspace

_REPLIES = {"compare", "guard"}
"""Kinds of work whose results hold what policies wrote next to what users said."""


class RunFiles(Place):
    """The report's page, results that hold replies, and drawn tasks beside them; a page is made again on demand."""

    name = "files of the run"

    def __init__(self, workspace: Workspace) -> None:
        self._root, self._work = workspace.root, workspace.scratch

    def find(self, forgotten: Forgotten) -> Iterator[Found]:
        if not forgotten.interactions:
            return
        for file in [self._root / "report" / "index.html", *self._results()]:
            if file.is_file():
                yield Found(str(file.relative_to(self._root)), 1)
        for file in sorted(self._root.glob("*.jsonl")):
            if count := sum(map(forgotten.has_line, file.read_bytes().splitlines())):
                yield Found(file.name, count)

    def erase(self, found: Found, forgotten: Forgotten) -> str | None:
        file = self._root / found.key
        if file.suffix != ".jsonl":
            file.unlink(missing_ok=True)
            return None
        kept = forgotten.kept(file.read_bytes())
        write_whole(file, kept.decode())
        return hashlib.sha256(kept).hexdigest()

    def _results(self) -> Iterator[Path]:
        for spec in sorted(self._work.rglob("spec.json")):
            if json.loads(spec.read_text()).get("kind") in _REPLIES:
                yield spec.with_name("result.json")


class LocalLines(Place):
    """Lines of a gateway's log that are not in the store yet. They are moved there, without what is forgotten."""

    name = "lines of the gateway on this machine"

    def __init__(self, workspace: Workspace) -> None:
        self._store, self._folder = workspace.open(), workspace.scratch / SERVED_CHATS

    def find(self, forgotten: Forgotten) -> Iterator[Found]:
        for file in sorted(self._folder.glob("*.jsonl")):
            if count := sum(map(forgotten.has_line, file.read_bytes().splitlines())):
                yield Found(file.name, count)

    def erase(self, found: Found, forgotten: Forgotten) -> str | None:  # noqa: ARG002  # of a place
        LineLog(self._store, self._folder, SERVED_CHATS, partial(served_chats.kept, self._store)).flush()
        if (self._folder / found.key).exists():
            raise BusyError("a gateway is writing them; within seconds it leaves out what is forgotten by itself")
        return None
