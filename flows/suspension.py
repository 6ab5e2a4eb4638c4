"""A run that ends its process while a person thinks, and says so: nobody shall wait for its heartbeats."""

from __future__ import annotations

import time
from typing import TypeVar

from prefect import runtime
from prefect.events import emit_event
from prefect.exceptions import Pause
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput

WAITS = "respect.flow-run.waits"
"""Event: the run's process ends, and no heartbeat comes after it."""

_TIMES, _APART = 3, 1.5
"""How often the server is told, seconds apart."""
Question = TypeVar("Question", bound=RunInput)


def suspend(question: type[Question], *, seconds: int, key: str) -> Question:
    """The answer to a question on the page of a deployment's run, which starts anew when it is answered.

    Args:
        seconds: How long a person may take; Prefect fails the run when it is answered later.
        key: Names the question: who has answered it is not asked again.
    """
    try:
        return suspend_flow_run(question, timeout=seconds, key=key)
    except Pause:
        # The server's own event, Suspended, may overtake a heartbeat or come before one; this goes the heartbeats' way.
        # On SQLite the server drops an event, or puts it behind later ones, while its database is locked, as it often
        # is when a state changes: so it is told again when that is over.
        for _ in range(_TIMES):
            emit_event(WAITS, resource={"prefect.resource.id": f"prefect.flow-run.{runtime.flow_run.id}"})
            time.sleep(_APART)
        raise
