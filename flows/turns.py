"""One at a time in a run's folder: rounds of one run share folders, files and runs in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.files import alone
from tasks.workspace import Workspace

_log = logging.getLogger(__name__)


@contextmanager
def in_turn(workspace: Workspace, kind: str) -> Iterator[None]:
    """Waits, and says so, until no other process of this machine is at one of this kind for the same run.

    What the other one has done is then found. It holds for one machine: elsewhere work has folders of its own.
    """

    def waiting() -> None:
        _log.warning("another %s of %s is under way; waiting until it ends", kind, workspace.root)

    with alone(workspace.scratch / f"{kind}.lock", waiting):
        yield
