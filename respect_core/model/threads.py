"""Passes beside each other on a CPU, each on a core of its own.

One small matrix product on two cores takes more than half of the time that it takes on one: threads wait for each
other after every layer. Two passes on a core each wait for nobody. An accelerator has its own ways, and gets one
pass after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(
    work: Callable[[Item], Result], items: Iterable[Item], device: torch.device, *, together: bool = True
) -> Iterator[Result]:
    """`work` of every item, in their order; on a CPU as many at once as torch has threads, if they go `together`.

    Without gradients, unless `work` enables them. Exhaust it or close it: torch has one thread for an operation until
    then. Items are taken as they are needed; one that is known to be alone has all threads. Raises what `work` raises.
    """
    threads = torch.get_num_threads()
    inference = torch.is_inference_mode_enabled()

    def run(item: Item) -> Result:
        with torch.inference_mode() if inference else torch.no_grad():  # both are a thread's own
            return work(item)

    alone = isinstance(items, Sequence) and len(items) == 1
    if at_once(device) == 1 or alone or not together:
        yield from map(run, items)
        return
    one_thread = partial(torch.set_num_threads, 1)
    with _threads_put_back(threads), ThreadPoolExecutor(threads, initializer=one_thread) as pool:
        running: deque[Future[Result]] = deque()
        try:
            for item in items:
                running.append(pool.submit(run, item))
                if len(running) > threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def shares(items: Sequence[Item], most: int, device: torch.device) -> Iterator[Sequence[Item]]:
    """Slices of so many items at most; on a CPU, of few enough that every core has one."""
    size = share(len(items), most, device)
    return (items[start : start + size] for start in range(0, len(items), size))


def share(count: int, most: int, device: torch.device) -> int:
    """How many of `count` items a slice of `shares` has."""
    return max(1, min(most, -(-count // at_once(device))))


def even(count: int, most: int, device: torch.device, processes: int = 1) -> int:
    """How many of `count` items make a slice, so that no slice has more than `most` and every core has as many slices.

    On an accelerator, `most`. `processes`: so many share the items, each with as many cores as this one.
    """
    threads = at_once(device) * (processes if device.type == "cpu" else 1)
    if threads == 1:
        return most
    slices = threads * -(-count // (most * threads))
    return max(1, -(-count // max(1, slices)))


def at_once(device: torch.device) -> int:
    """How many passes run beside each other."""
    return torch.get_num_threads() if device.type == "cpu" else 1


@contextmanager
def _threads_put_back(threads: int) -> Iterator[None]:
    """Puts back how many threads an operation has: a part of that setting belongs to the process."""
    try:
        yield
    finally:
        torch.set_num_threads(threads)
