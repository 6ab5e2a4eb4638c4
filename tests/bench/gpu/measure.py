"""What is measured on a device: seconds, tokens, FLOPs against the device's own peak, memory; and the time allowed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.bench.flops import Counts, counting
from tests.bench.record import Record, versions

NOMINAL = 989e12
"""Dense bf16 FLOP/s of an H100 or H200 by their data sheets."""


@dataclass(frozen=True)
class OnDevice(Record):
    """A record with what a device adds. Utilisation: FLOPs by formula over the time, as a share of a peak."""

    device: str
    tokens_per_second: float | None
    utilisation: float | None  # of the product of two large matrices, measured in the same run
    utilisation_nominal: float | None  # of NOMINAL; None on a CPU
    peak_gib: float | None  # most memory allocated; None on a CPU
    note: str  # what was cut, or how it was measured


@dataclass
class Work:
    """What one measurement did; whoever measures says how many turns that was."""

    turns: float = 0.0
    seconds: float = 0.0
    peak_bytes: int | None = None
    counts: Counts = field(default_factory=Counts)

    @property
    def speed(self) -> float:
        return self.turns / self.seconds


@dataclass
class Bench:
    """The device, its peak, and how long all may take."""

    device: torch.device
    seconds: float  # for everything
    started: float = field(default_factory=time.monotonic)
    peak: float = 0.0  # FLOP/s, from `product`

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.started)

    def wait(self) -> None:
        """For the device, which works behind Python's back."""
        if self.device.type != "cpu":
            torch.get_device_module(self.device).synchronize()

    @contextmanager
    def measuring(self, model: Any) -> Iterator[Work]:
        """Measures what this model does inside, and what views of it do that are made inside."""
        work = Work()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with counting(model) as work.counts:
            self.wait()
            started = time.perf_counter()
            yield work
            self.wait()
            work.seconds = time.perf_counter() - started
        if self.device.type == "cuda":
            work.peak_bytes = torch.cuda.max_memory_allocated()

    def pieces(self, count: int, seconds: float) -> Iterator[int]:
        """Yields 0 to `count` - 1 as long as another piece, if it takes as long as those so far, ends in time."""
        started = time.monotonic()
        for piece in range(count):
            used = time.monotonic() - started
            if piece and used * (piece + 1) / piece > min(seconds, self.left + used):
                return
            yield piece

    def product(self, side: int) -> float:
        """Measures FLOP/s of a product of random square matrices, in bf16 but on a CPU, and keeps it as the peak."""
        dtype = torch.float32 if self.device.type == "cpu" else torch.bfloat16
        left, right = (torch.randn(side, side, device=self.device, dtype=dtype) for _ in range(2))
        for timed in (False, True):
            self.wait()
            started = time.perf_counter()
            for _ in range(10):
                left @ right
            self.wait()
            if timed:
                self.peak = 10 * 2.0 * side**3 / (time.perf_counter() - started)
        return self.peak

    def record(
        self,
        case: str,
        size: str,
        work: Work,
        *,
        turns_per_game: int | None = None,
        peer: Work | None = None,
        peer_name: str = "none",
        unit: str = "turns/s",
        equality: str = "none",
        note: str = "",
    ) -> OnDevice:
        cuda = self.device.type == "cuda"
        rate = work.counts.flops / work.seconds
        return OnDevice(
            case=case,
            size=size,
            turns_per_game=turns_per_game,
            ours=work.speed,
            peer=peer and peer.speed,
            peer_name=peer_name,
            unit=unit,
            ratio=peer and work.speed / peer.speed,
            bar=None,
            tokens_ours=work.counts.tokens or None,
            tokens_peer=peer and (peer.counts.tokens or None),
            flops_ours=work.counts.flops or None,
            flops_peer=peer and (peer.counts.flops or None),
            seconds_ours=work.seconds,
            seconds_peer=peer and peer.seconds,
            repeats=1,
            spread=None,
            equality=equality,
            versions=versions(),
            device=torch.cuda.get_device_name() if cuda else "cpu",
            tokens_per_second=work.counts.tokens / work.seconds or None,
            utilisation=rate / self.peak if self.peak and rate else None,
            utilisation_nominal=rate / NOMINAL if cuda and rate else None,
            peak_gib=None if work.peak_bytes is None else work.peak_bytes / 2**30,
            note=note,
        )
