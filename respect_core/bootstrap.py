"""Percentile bootstrap of figures that are made of sums, such as rates: all figures of a cell from one set of draws.

Section 6 (figures 4 and 5): 95% intervals, 10,000 resamples. The paper does not say what is drawn; here it is games,
for turns of one game depend on each other.

How often each unit was drawn depends on the number of units alone, not on the data. So the draws of one size are made
once and kept: figures over the same games are resampled together, and each costs one matrix product.

Shapes: N units, R resamples, C columns that are added up, M figures.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure and its percentile bootstrap interval."""

    value: float
    low: float
    high: float
