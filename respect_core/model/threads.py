"""Run model passes in parallel on a CPU, one single-threaded pass per core.

A small matrix product on two cores takes more than half the time that it takes on one: threads wait for each other
after every layer. Two passes on a core each do not wait. An accelerator parallelises by itself, and runs one pass at a
time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_parallel(
    work: Callable[[Item], Result], items: Iterable[Item], device: torch.device, *, together: bool = True
) -> Iterator[Result]:
    """Yield `work` of every item, in order; on a CPU in as many threads as torch has, unless not `together`.

    Gradients are off unless `work` enables them. Exhaust or close the iterator: until then torch runs each operation in
    one thread. Items are taken as needed; the only item of a sequence gets all threads. Raises what `work` raises.
    """
    threads = torch.get_num_threads()
    inference = torch.is_inference_mode_enabled()

    def run(item: Item) -> Result:
        with torch.inference_mode() if inference else torch.no_grad():  # both hold for one thread
            return work(item)

    single = isinstance(items, Sequence) and len(items) == 1
    if parallel_passes(device) == 1 or single or not together:
        yield from map(run, items)
        return
    pool = ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1))
    running: deque[Future[Result]] = deque()
    try:
        for item in items:
            running.append(pool.submit(run, item))
            if len(running) > threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # which is in part a setting of the process


def split_across_cores(items: Sequence[Item], most: int, device: torch.device) -> Iterator[Sequence[Item]]:
    """Yield slices of at most `most` items; on a CPU, small enough that every core has one."""
    size = batch_size(len(items), most, device)
    return (items[start : start + size] for start in range(0, len(items), size))


def batch_size(count: int, most: int, device: torch.device) -> int:
    """Return how many of `count` items a slice of `split_across_cores` has."""
    return max(1, min(most, -(-count // parallel_passes(device))))


def balanced_batch_size(count: int, most: int, device: torch.device, processes: int = 1) -> int:
    """Return how many of `count` items make a slice of at most `most`, so that all cores have equally many slices.

    On an accelerator, return `most`.

    Args:
        processes: how many processes share the items, each with as many cores as this one.
    """
    threads = parallel_passes(device) * (processes if device.type == "cpu" else 1)
    if threads == 1:
        return most
    slices = threads * -(-count // (most * threads))
    return max(1, -(-count // max(1, slices)))


def parallel_passes(device: torch.device) -> int:
    """Return how many passes run in parallel."""
    return torch.get_num_threads() if device.type == "cpu" else 1
