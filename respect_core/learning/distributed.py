"""Train in several processes, each with its own device: distributed data parallel.

Each process runs its share of a batch's passes; gradients and figures are summed over the processes, and each takes the
same optimizer step. A pass has its own seed, and a batch is cut into the same passes however many processes there are:
the result is that of one process, up to the order of a sum.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor, distributed

from respect_core.model.memory import no_room

Item = TypeVar("Item")
Result = TypeVar("Result")

_PATIENCE = timedelta(days=1)
"""How long a process waits for the others, while the first validates. If one fails, accelerate ends all."""


@dataclass(frozen=True)
class Processes:
    """The processes that train together, seen from one of them. A single one, the default, costs nothing."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes, validates and reports."""
        return self.rank == 0

    def shard(self, items: Iterable[Item]) -> Iterator[Item]:
        """Return this process's share of the items: every `count`-th, from its rank on."""
        return islice(items, self.rank, None, self.count)

    def all_reduce_min(self, number: int) -> int:
        """Return the minimum of the processes' numbers."""
        if self.count == 1:
            return number
        numbers = torch.tensor([number], device=_device())
        distributed.all_reduce(numbers, distributed.ReduceOp.MIN)
        return int(numbers)

    def raise_oom_together(self, work: Callable[[], Result]) -> Result:
        """Return `work()`, or raise in all processes if one of them runs out of memory.

        Raises:
            torch.OutOfMemoryError: this process or another ran out of memory.
        """
        if self.count == 1:
            return work()
        reason = ""
        try:
            result = work()
        except (RuntimeError, MemoryError) as error:
            if not no_room(error):
                raise
            reason = str(error) or "out of memory"
        if not self.all_reduce_min(int(not reason)):
            raise torch.OutOfMemoryError(reason or "another process is out of memory")
        return result

    def all_reduce_sum(self, weights: Sequence[Tensor], figures: Sequence[float]) -> list[float]:
        """Sum the weights' gradients over the processes, in place; return the sums of the figures.

        A weight without a gradient in any process keeps none.
        """
        if self.count == 1:
            return list(figures)
        has_gradient = [weight.grad is not None for weight in weights]
        numbers = torch.tensor([*figures, *has_gradient], dtype=torch.float64, device=_device())
        distributed.all_reduce(numbers)
        flat = torch.cat([(torch.zeros_like(w) if w.grad is None else w.grad).flatten() for w in weights])
        distributed.all_reduce(flat)
        sums, counts = numbers.tolist()[: len(figures)], numbers.tolist()[len(figures) :]
        for weight, gradient, count in zip(weights, flat.split([w.numel() for w in weights]), counts, strict=True):
            weight.grad = gradient.view_as(weight) if count else None
        return sums


ALONE = Processes()


@cache
def launched() -> Processes:
    """Return the processes that `accelerate launch` started, or ALONE without it.

    Call it before loading a model: it chooses the device.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    from accelerate import PartialState

    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=_PATIENCE)
    return Processes(state.process_index, state.num_processes)


def leave() -> None:
    """Leave the process group, if there is one, after all work is done.

    A thread of the group that is alive when the interpreter exits can crash the process, and its work would count as
    failed. A process that fails must not call this: leaving may wait for the others, which wait for it.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _device() -> torch.device:
    """Return the device whose tensors the processes can exchange."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
