"""One training in several processes, each with a device of its own: distributed data parallel.

The passes of a batch are dealt out; gradients and figures are added up over the processes, and each makes the same
optimizer step. A pass has its own seed, and a batch is cut into the same passes however many processes there are: the
result is that of one process, up to the order of a sum.
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
"""How long a process waits for the others: the first one validates meanwhile. Who fails ends all (accelerate)."""


@dataclass(frozen=True)
class Processes:
    """Those that train together, this one among them. One alone, as by default, costs nothing."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes, validates and reports."""
        return self.rank == 0

    def deal(self, items: Iterable[Item]) -> Iterator[Item]:
        """Take this one's share of items, dealt one by one."""
        return islice(items, self.rank, None, self.count)

    def least(self, number: int) -> int:
        """The smallest of the processes' numbers."""
        if self.count == 1:
            return number
        numbers = torch.tensor([number], device=_device())
        distributed.all_reduce(numbers, distributed.ReduceOp.MIN)
        return int(numbers)

    def fitting(self, work: Callable[[], Result]) -> Result:
        """`work()`.

        Raises:
            torch.OutOfMemoryError: in all of them, where one had not the memory.
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
        if not self.least(int(not reason)):
            raise torch.OutOfMemoryError(reason or "another process is out of memory")
        return result

    def add_up(self, weights: Sequence[Tensor], figures: Sequence[float]) -> list[float]:
        """Sums over the processes: of gradients, left in the weights, and of figures.

        A weight without a gradient in any of them keeps none.
        """
        if self.count == 1:
            return list(figures)
        found = [weight.grad is not None for weight in weights]
        numbers = torch.tensor([*figures, *found], dtype=torch.float64, device=_device())
        distributed.all_reduce(numbers)
        flat = torch.cat([(torch.zeros_like(w) if w.grad is None else w.grad).flatten() for w in weights])
        distributed.all_reduce(flat)
        sums, anywhere = numbers.tolist()[: len(figures)], numbers.tolist()[len(figures) :]
        for weight, gradient, has in zip(weights, flat.split([w.numel() for w in weights]), anywhere, strict=True):
            weight.grad = gradient.view_as(weight) if has else None
        return sums


ALONE = Processes()


@cache
def launched() -> Processes:
    """The processes that `accelerate launch` started, if it did. To be called before a model is loaded: it chooses the
    device.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    from accelerate import PartialState

    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=_PATIENCE)
    return Processes(state.process_index, state.num_processes)


def leave() -> None:
    """Parts this process from the others, if there are any, once all is done.

    A thread of theirs that lives when the interpreter ends can take the process down with it, and what it did would
    count as failed. One that fails does not come here: parting may wait for the others, which wait for it.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _device() -> torch.device:
    """Where the processes' common operations take their tensors."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
