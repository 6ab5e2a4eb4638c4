"""Chance: listeners that do not see the images, to compare exact match with (appendix B.4). For measuring only.

Two of them, each acting at random among the legal actions it takes for possible:
- `single_click` clicks one image. It knows nothing of what was said.
- `kind_and_number` knows how many images are to be selected and how many deselected, and not which. A policy that
  has understood everything but the pictures is no better.
"""

from __future__ import annotations

from collections.abc import Callable
from math import comb

from respect_core.scenarios.multiref import actions


def single_click(action: str, state: str, n_images: int) -> float:
    """Probability that one click on an image drawn at random is the action."""
    parsed = actions.parse(action)
    return 1 / n_images if len(parsed.select + parsed.deselect) == 1 else 0.0


def kind_and_number(action: str, state: str, n_images: int) -> float:
    """Probability that as many images drawn at random among the selected, and among the others, are the action's."""
    parsed = actions.parse(action)
    ways = comb(len(state), len(parsed.deselect)) * comb(n_images - len(state), len(parsed.select))
    return 1 / ways


LISTENERS: dict[str, Callable[[str, str, int], float]] = {
    "single click": single_click,
    "kind and number": kind_and_number,
}
