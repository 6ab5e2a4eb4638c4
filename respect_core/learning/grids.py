"""Define search spaces of training settings: named functions from a recipe to the recipes to try (Table 1).

Deviations from the paper, numbered as they are cited elsewhere:
1. `table-1` changes one setting at a time. The paper does not say how its search space was searched; all of its
   combinations, `table-1-product`, are 8,640 for FFT and RL and 25,920 for KTO. Try a random part of them.
2. A recipe that counts steps has no epochs to search.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import product
from typing import Any

from respect_core.variants import Objective, TrainingConfig

TABLE_1: Mapping[str, Sequence[Any]] = {
    "learning_rate": (1e-6, 1e-5, 1e-4, 2e-4),
    "schedule": ("constant", "cosine", "linear"),
    "epochs": (5, 10, 20, 40),
    "warmup_steps": (0, 10, 50),
    "weight_decay": (0.0, 0.01, 0.1),
    "batch_turns": (16, 32, 48, 64, 128),
    "entropy_weight": (0.0, 0.01, 0.1, 0.5),
    "kto_beta": (0.01, 0.1, 0.5),
}
"""Setting -> values to try."""

Grid = Callable[[TrainingConfig], Iterator[TrainingConfig]]


def table_1(recipe: TrainingConfig) -> Iterator[TrainingConfig]:
    """Yield the recipe with each value of Table 1's search space, one setting changed at a time."""
    for name, values in _space(recipe).items():
        for value in values:
            yield replace(recipe, **{name: value})


def table_1_product(recipe: TrainingConfig) -> Iterator[TrainingConfig]:
    """Yield every combination of Table 1's search space."""
    space = _space(recipe)
    for values in product(*space.values()):
        yield replace(recipe, **dict(zip(space, values, strict=True)))


def near(recipe: TrainingConfig) -> Iterator[TrainingConfig]:
    """Yield the recipe at a quarter to four times its learning rate, and with other weights of its extra terms.

    For models whose rates are not Table 1's, such as the embedded one.
    """
    for factor in (0.25, 0.5, 2.0, 4.0):
        yield replace(recipe, learning_rate=factor * recipe.learning_rate)
    for weight in (0.0, 0.003, 0.01, 0.03):
        yield replace(recipe, entropy_weight=weight)
    if recipe.objective is Objective.KTO:
        for beta in (0.1, 0.25, 0.5, 1.0):
            yield replace(recipe, kto_beta=beta)
        for weight in (0.1, 0.2, 0.5, 1.0):
            yield replace(recipe, kto_undesirable=weight)


GRIDS: Mapping[str, Grid] = {"table-1": table_1, "table-1-product": table_1_product, "near": near}


def points(name: str, recipe: TrainingConfig, limit: int | None = None) -> list[TrainingConfig]:
    """Return the recipe itself, then the recipes that a grid makes from it, each once.

    Args:
        limit: maximum number of recipes, drawn at random: always the same for a grid, and a larger limit adds to them.

    Raises:
        ValueError: no such grid; the message lists all grids.
    """
    if name not in GRIDS:
        raise ValueError(f"no grid {name!r}; there are: {', '.join(GRIDS)}")
    others = [
        each for each in dict.fromkeys(point.on(recipe.engine) for point in GRIDS[name](recipe)) if each != recipe
    ]
    if limit is not None and limit <= len(others):
        others = random.Random(0).sample(others, len(others))[: limit - 1]
    return [recipe, *others]


def changes(recipe: TrainingConfig, point: TrainingConfig) -> dict[str, Any]:
    """Return the values that a point changes, by setting; none for the recipe itself."""
    names = [field.name for field in fields(recipe)]
    return {name: getattr(point, name) for name in names if getattr(point, name) != getattr(recipe, name)}


def label(recipe: TrainingConfig, point: TrainingConfig) -> str:
    """Describe the changes in one line."""
    values = changes(recipe, point)
    texts = [f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()]
    return ", ".join(texts) or "as in the profile"


def _space(recipe: TrainingConfig) -> dict[str, Sequence[Any]]:
    """Return the rows of Table 1 that apply to a recipe."""
    excluded = {"kto_beta"} if recipe.objective is not Objective.KTO else set()
    excluded |= {"epochs"} if recipe.max_steps is not None else set()
    return {name: values for name, values in TABLE_1.items() if name not in excluded}
