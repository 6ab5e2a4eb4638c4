"""Record every served turn, with version and hash of the policy as evidence, and without any text of a user.

A line is in the log (`respect_core.store.line_log`) before the turn is answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from pydantic import BaseModel, ConfigDict

from respect_core.store.base import Store

SERVED = "served"


class ServedTurn(BaseModel):
    """One answer. With seed and temperature the draw can be repeated from the interaction log."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    time: str  # ISO 8601, UTC
    game: str
    turn: int  # from 0
    variant: str
    version: str  # as 'respect.b-fft/3'
    adapter_hash: str
    action: str
    legal: bool
    probability: float
    seed: int
    temperature: float
    latency_ms: float


def read(store: Store, day: str = "") -> Iterator[ServedTurn]:
    """Yield every turn in the store, or in a day such as '2026-11-24', by the start time of its object."""
    for key in store.keys(f"{SERVED}/{day}"):
        with closing(store.open(key)) as file:
            for line in file:
                yield ServedTurn.model_validate_json(line)
