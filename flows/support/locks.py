"""Allow one flow at a time in a run's folder: its demos, rounds and studies share folders, files and MLflow runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from tasks.support.files import alone
from tasks.support.workspace import Workspace

_log = logging.getLogger(__name__)
_ours: ContextVar[frozenset[Path]] = ContextVar("_ours", default=frozenset())
"""Locks that the enclosing flows hold."""


@contextmanager
def in_turn(workspace: Workspace) -> Iterator[None]:
    """Wait, and say so, until no other process on this machine runs a demo, round or study of the same run.

    This flow then finds what the other one has done. The lock holds on one machine only: elsewhere, work has folders of
    its own. A flow inside one that holds the lock need not wait.
    """

    def waiting() -> None:
        _log.warning("another demo, round or study of %s is under way; waiting until it ends", workspace.root)

    lock = workspace.scratch.resolve() / "run.lock"
    if lock in _ours.get():
        yield
        return
    with alone(lock, waiting):
        token = _ours.set(_ours.get() | {lock})
        try:
            yield
        finally:
            _ours.reset(token)
