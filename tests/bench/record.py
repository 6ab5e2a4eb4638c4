"""What a measurement is, how two sides are timed, and the registry of cases.

A case is a function in a module of this package:

    @case("fft")
    def fft(quick: bool) -> Iterator[Record]:
        ...
        yield compare("fft", "tiny", 3, ours=..., peer=..., work=64, unit="turns/s", ...)

It checks that both sides give equal results before it times them, and says in `equality` how equal they are. With
`quick` it measures one small setting in seconds; the ratio is then held against floors.json.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

CODE = ("respect_core", "flows", "tasks", "tests")


@dataclass(frozen=True)
class Record:
    """One comparison. Speeds are in `unit`, higher is better; None where a figure does not apply."""

    case: str
    size: str  # of the model or the data, e.g. "tiny", "135m"
    turns_per_game: int | None
    ours: float
    peer: float | None
    peer_name: str  # the peer and its best setting, e.g. "trl.SFTTrainer, batch of 8"
    unit: str
    ratio: float | None  # ours / peer, of the medians
    bar: float | None  # what `ratio` must reach; None where it is only reported
    tokens_ours: int | None  # real and padding, through the language model, in one repeat
    tokens_peer: int | None
    flops_ours: float | None  # of one repeat, from formulas: `respect` sides count what they run, no more
    flops_peer: float | None
    seconds_ours: float  # median of the repeats
    seconds_peer: float | None
    repeats: int
    spread: tuple[float, float] | None  # lowest and highest ratio of a single pair of repeats
    equality: str  # what was compared, and how far apart it was
    versions: Mapping[str, str]

    @property
    def key(self) -> str:
        """Names the comparison in floors.json."""
        turns = "" if self.turns_per_game is None else f"/{self.turns_per_game}"
        return f"{self.case}/{self.size}{turns}"


Run = Callable[[bool], Iterator[Record]]
CASES: dict[str, Run] = {}


def case(name: str) -> Callable[[Run], Run]:
    """Register a case under a name, which is also its file in runs/bench."""

    def register(run: Run) -> Run:
        if name in CASES:
            raise ValueError(f"two cases are called {name!r}")
        CASES[name] = run
        return run

    return register


def versions(*packages: str) -> dict[str, str]:
    """Of the code, torch, transformers and `packages`; the machine's cores and threads; today's date."""
    found = {name: version(name) for name in ("torch", "transformers", *packages)}
    cores = f"{len(os.sched_getaffinity(0))} of {platform.machine()}"
    machine = {"python": platform.python_version(), "cores": cores, "threads": str(torch.get_num_threads())}
    return found | machine | {"commit": commit(), "date": f"{datetime.now(UTC):%Y-%m-%d}"}


@cache
def commit() -> str:
    """The last commit that changed the code, and whether it was changed since; asked once a process.

    "unknown" where there is no git, or only a copy of the files.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments, "--", *CODE], capture_output=True, text=True, check=True).stdout

    try:
        return git("log", "-1", "--format=%h").strip() + (" with changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@dataclass(frozen=True)
class Timing:
    """Seconds of each repeat; pair i was measured back to back."""

    ours: tuple[float, ...]
    peer: tuple[float, ...]


def alternate(
    ours: Callable[[], object],
    peer: Callable[[], object] | None,
    *,
    repeats: int = 3,
    warm_up: bool = True,
    processor: bool = False,
) -> Timing:
    """Time both sides in turns, so that a noisy machine hits both. Rubbish is collected outside the clock.

    Args:
        warm_up: run each side once before the clock starts; not needed where checking equality did it.
        processor: count this process's processor time, which other processes hardly change.
    """
    clock = time.process_time if processor else time.perf_counter
    sides = (ours, peer) if peer is not None else (ours,)
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + warm_up):
        for side, run in enumerate(sides):
            gc.collect()
            started = clock()
            run()
            if repeat >= warm_up:
                seconds[side].append(clock() - started)
    return Timing(tuple(seconds[0]), tuple(seconds[1]))


def compare(
    case: str,
    size: str,
    turns_per_game: int | None,
    *,
    ours: Callable[[], object],
    peer: Callable[[], object] | None,
    work: float,
    unit: str,
    peer_name: str,
    bar: float | None,
    equality: str,
    tokens: tuple[int | None, int | None] = (None, None),
    flops: tuple[float | None, float | None] = (None, None),
    repeats: int = 3,
    warm_up: bool = True,
    processor: bool = False,
    peer_work: float | None = None,
    packages: Sequence[str] = (),
) -> Record:
    """Time both sides and make the record.

    Args:
        work: units that `ours` does in one call, e.g. turns; `peer_work` is the same of the peer, if it differs.
        tokens, flops: of one call, ours and the peer's.
        processor: see `alternate`.
        packages: whose versions to record beside torch and transformers.
    """
    timing = alternate(ours, peer, repeats=repeats, warm_up=warm_up, processor=processor)
    of_peer = peer_work or work
    seconds_ours = median(timing.ours)
    seconds_peer = median(timing.peer) if timing.peer else None
    speed, peer_speed = work / seconds_ours, of_peer / seconds_peer if seconds_peer else None
    pairs = [(work / a) / (of_peer / b) for a, b in zip(timing.ours, timing.peer, strict=False)]
    return Record(
        case=case,
        size=size,
        turns_per_game=turns_per_game,
        ours=speed,
        peer=peer_speed,
        peer_name=peer_name,
        unit=unit,
        ratio=speed / peer_speed if peer_speed else None,
        bar=bar,
        tokens_ours=tokens[0],
        tokens_peer=tokens[1],
        flops_ours=flops[0],
        flops_peer=flops[1],
        seconds_ours=seconds_ours,
        seconds_peer=seconds_peer,
        repeats=repeats,
        spread=(min(pairs), max(pairs)) if pairs else None,
        equality=equality,
        versions=versions(*packages),
    )


def save(records: Sequence[Record], folder: Path, name: str) -> Path:
    """Write a case's records to `folder/<name>.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    file.write_text(json.dumps([asdict(record) for record in records], indent=1) + "\n")
    return file


def load(folder: Path) -> list[Record]:
    """All records of a folder, in order of the cases' names; files of others (`gpu.json`) are no part of the table."""
    files = [folder / f"{name}.json" for name in sorted(CASES)]
    rows: list[dict[str, Any]] = [row for file in files if file.is_file() for row in json.loads(file.read_text())]
    return [Record(**(row | {"spread": row["spread"] and tuple(row["spread"])})) for row in rows]
