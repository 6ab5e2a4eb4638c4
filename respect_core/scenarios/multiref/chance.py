"""Compute exact match by chance: listeners that do not see the images (appendix B.4). For measuring only.

Each acts at random among the legal actions that it considers possible:
- `single_click` clicks one image. It knows nothing about the utterance.
- `kind_and_number` knows how many images to select and how many to deselect, but not which. A policy that has
  understood everything but the pictures is no better.
"""

from __future__ import annotations

from math import comb

from respect_core.scenarios.multiref import actions


def single_click(action: str, _state: str, n_images: int) -> float:
    """Return the probability that one click on a random image is the action."""
    parsed = actions.parse(action)
    return 1 / n_images if len(parsed.select + parsed.deselect) == 1 else 0.0


def kind_and_number(action: str, state: str, n_images: int) -> float:
    """Return the probability that a random choice of as many images to select and to deselect is the action."""
    parsed = actions.parse(action)
    ways = comb(len(state), len(parsed.deselect)) * comb(n_images - len(state), len(parsed.select))
    return 1 / ways


def chance(action: str, state: str, n_images: int) -> dict[str, float]:
    """Return the probability of the action under each listener, by its name."""
    return {
        "single click": single_click(action, state, n_images),
        "kind and number": kind_and_number(action, state, n_images),
    }
