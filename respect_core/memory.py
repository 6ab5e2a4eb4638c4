"""Work that a device has no memory for, in smaller pieces."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

_log = logging.getLogger(__name__)

T = TypeVar("T")


def fitting(work: Callable[[int], T], size: int, unit: str) -> tuple[T, int]:
    """`work(size)`; where the device runs out of memory, again with half the size, down to 1. Says so in the log.

    Args:
        work: may be called several times, each time from the beginning.
        unit: what `size` counts, for the log.

    Returns:
        The result, and the size that fitted: what comes next is best begun with it.

    Raises:
        torch.OutOfMemoryError: not even 1 fits.
    """
    while True:
        try:
            return work(size), size
        except torch.OutOfMemoryError as error:
            if size <= 1:
                raise
            reason = str(error).partition("\n")[0]
        # Not in the handler: the error's traceback holds the tensors of the pass that failed.
        size //= 2
        torch.cuda.empty_cache()
        _log.warning("the device is out of memory (%s); going on with %d %s at once", reason, size, unit)
