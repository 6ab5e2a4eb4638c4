"""Give words their pretraining meanings: technical words one, figurative words several.

The base model comes to know a figurative word as vaguely as a pretrained model knows what people compare abstract
shapes to: its most common reading in COMMON_SHARE of its uses, one of two others otherwise.
"""

from __future__ import annotations

import numpy as np

from respect_core.scenarios.multiref.attributes import LEXICON
from respect_core.scenarios.multiref.dialects import VALUES, readings

COMMON_SHARE = 0.4


def senses() -> dict[str, tuple[list[int], list[float]]]:
    """Return for each word the indices into VALUES and the probability of each."""
    table: dict[str, tuple[list[int], list[float]]] = {}
    for index, (name, value) in enumerate(VALUES):
        words = LEXICON[name][value]
        for word in words.technical:
            table[word] = ([index], [1.0])
        for word in words.figurative:
            indices = [VALUES.index(reading) for reading in readings()[word]]
            table[word] = (indices, [COMMON_SHARE, *[(1 - COMMON_SHARE) / 2] * 2])
    return table


def sample_senses(table: dict[str, tuple[list[int], list[float]]], rng: np.random.Generator) -> np.ndarray:
    """Sample one sense [words] for each word, in the table's order."""
    return np.array([rng.choice(indices, p=weights) for indices, weights in table.values()])
