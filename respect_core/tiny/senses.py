"""What words mean in pretraining: technical words one thing, figurative ones one of several.

The base model comes to know a figurative word as vaguely as a pretrained model knows what people liken abstract
shapes to: its true sense in TRUE_SHARE of its uses, one of two decoys otherwise. Users mean the true sense.
"""

from __future__ import annotations

import random

import numpy as np

from respect_core.multiref.attributes import LEXICON
from respect_core.tiny.pictures import VALUES

TRUE_SHARE = 0.4


def senses(seed: int = 0, true_share: float = TRUE_SHARE) -> dict[str, tuple[list[int], list[float]]]:
    """Word -> indices into VALUES and the probability of each."""
    rng = random.Random(f"senses-{seed}")
    table: dict[str, tuple[list[int], list[float]]] = {}
    for index, (name, value) in enumerate(VALUES):
        others = [i for i, (other, _) in enumerate(VALUES) if other != name]
        words = LEXICON[name][value]
        for word in words.technical:
            table[word] = ([index], [1.0])
        for word in words.figurative:
            table[word] = ([index, *rng.sample(others, 2)], [true_share, *[(1 - true_share) / 2] * 2])
    return table


def sample_senses(table: dict[str, tuple[list[int], list[float]]], rng: np.random.Generator) -> np.ndarray:
    """[words] one sense for each word, in the table's order."""
    return np.array([rng.choice(indices, p=weights) for indices, weights in table.values()])
