"""Run work in smaller pieces where a device is out of memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

_log = logging.getLogger(__name__)

T = TypeVar("T")

# Messages of torch's allocator on Linux and elsewhere, and of C++.
_REFUSALS = ("can't allocate memory", "not enough memory", "bad_alloc")


def no_room_on_cpu(error: BaseException) -> bool:
    """Tell whether the operating system refused memory: torch raises a RuntimeError that only its text identifies."""
    refused = isinstance(error, RuntimeError) and any(each in str(error) for each in _REFUSALS)
    return refused or isinstance(error, MemoryError)


def no_room(error: BaseException) -> bool:
    """Tell whether an accelerator or the operating system refused memory."""
    import torch  # takes seconds, and `no_room_on_cpu` does not need it

    return isinstance(error, torch.OutOfMemoryError) or no_room_on_cpu(error)


def fitting(work: Callable[[int], T], size: int, unit: str) -> tuple[T, int]:
    """Call `work(size)`; where memory does not suffice, call it again with half the size, down to 1, and log that.

    Args:
        work: may be called several times, each time from the beginning.
        unit: what `size` counts, for the log.

    Returns:
        The result, and the size that fitted: start the next piece of work with it.

    Raises:
        torch.OutOfMemoryError, or on a CPU RuntimeError or MemoryError: not even 1 fits.
    """
    import torch

    while True:
        try:
            return work(size), size
        except (RuntimeError, MemoryError) as error:
            if size <= 1 or not no_room(error):
                raise
            reason = str(error).partition("\n")[0]
        # Not in the handler: the error's traceback holds the tensors of the pass that failed.
        size //= 2
        torch.cuda.empty_cache()
        _log.warning("the device is out of memory (%s); continuing with %d %s at once", reason, size, unit)
