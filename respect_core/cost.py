from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from respect_core.store import Store


@dataclass(frozen=True)
class Cost:
    """None where it was not recorded."""

    round: int
    turns_decoded: int | None
    decode_seconds: float | None
    train_tokens: int | None
    train_seconds: Mapping[str, float] | None  # device -> seconds over all variants and seeds; 'unknown' where not said


def read_cost(store: Store, run: Path | None, round: int) -> Cost:
    """`run`: folder of the run (runs/NAME), None where there is none."""
    raise NotImplementedError
