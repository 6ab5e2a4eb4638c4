"""Measure the cost of a round: turns and tokens decoded, tokens trained on, training seconds. Not in the paper.

Decoded turns are counted in the store. The rest comes from the run's folder on the machine that ran the round:
`summary.json`, and `work/round=N/VARIANT/seed=S/result.json` of each training.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from respect_core.store import manifests
from respect_core.store.base import Store
from respect_core.store.tables import iter_batches

UNKNOWN = "unknown"  # the device of a training whose result does not name it


@dataclass(frozen=True)
class Cost:
    """Cost of one round over all its variants and training seeds. None if it was not recorded."""

    round: int
    turns_decoded: int | None  # each counted once, however many decoders
    decode_tokens: int | None  # through the model, without the start that all prompts share
    decode_seconds: float | None  # wall clock
    trainings: int | None  # variants times seeds
    train_tokens: int | None  # through the model, without padding
    train_seconds: Mapping[str, float] | None  # device -> sum of its workers' seconds


def read_cost(store: Store, run: Path | None, round: int) -> Cost:
    """Read the cost of a round.

    Args:
        run: folder of the run (runs/NAME); None without one, as for imported games.

    Raises:
        TableError, StoreError: as reading tables does.
        ValueError: a file of the run is malformed.
    """
    trainings = list(_trainings(run, round)) if run else []
    seconds: dict[str, float] = {}
    for result in trainings:
        device = result.get("device", UNKNOWN)
        seconds[device] = seconds.get(device, 0.0) + result.get("seconds", 0.0)
    tokens = [result["tokens"] for result in trainings if "tokens" in result]
    turns, decode_tokens = _count_decoded(store, round)
    return Cost(
        round=round,
        turns_decoded=turns,
        decode_tokens=decode_tokens,
        decode_seconds=_summary(run, round).get("decode") if run else None,
        trainings=len(trainings) or None,
        train_tokens=sum(tokens) if trainings and len(tokens) == len(trainings) else None,
        train_seconds=seconds or None,
    )


def _count_decoded(store: Store, round: int) -> tuple[int | None, int | None]:
    """Count turns, each once, and tokens."""
    turns: set[tuple[str, int]] = set()
    for batch in iter_batches(store, "feedback", [round], None, ["interaction_id", "turn"]):
        turns.update(zip(map(sys.intern, batch.column(0).to_pylist()), batch.column(1).to_pylist(), strict=True))
    partitions = manifests.partitions(store, "feedback", [round])
    read = (manifests.read_manifest(store, "feedback", *each) for each in partitions)
    counts = [part.counts for manifest in read if manifest for part in manifest.parts]
    has_tokens = bool(counts) and all("tokens" in each for each in counts)  # earlier releases did not count them
    return len(turns) or None, sum(each["tokens"] for each in counts) if has_tokens else None


def _trainings(run: Path, round: int) -> Iterator[dict[str, Any]]:
    for file in sorted((run / "work" / f"round={round}").glob("*/seed=*/result.json")):
        yield _json(file)


def _summary(run: Path, round: int) -> dict[str, Any]:
    """Return seconds of a round by stage, from the summary of a study or of one round; empty if there are none."""
    file = run / "summary.json"
    if not file.is_file():
        return {}
    summary = _json(file)
    for each in summary.get("rounds", [summary]):
        if each.get("round") == round:
            return dict(each.get("seconds") or {})
    return {}


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error}); run the round again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: holds a {type(content).__name__}, not an object; run the round again")
    return content
