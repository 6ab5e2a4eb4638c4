"""Plots of a round for MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from respect_core.errors import extra
from respect_core.measuring.judge import Words

if TYPE_CHECKING:  # most importers of this module draw nothing, and need not wait for matplotlib
    from matplotlib.figure import Figure

_NAMES = ("negative", "neutral", "positive")


def confusion_figure(decoder: str, confusion: Mapping[str, Mapping[str, int]]) -> Figure:
    """Plot the decoded label against the label derived from targets, in shares of all turns (figure 6).

    Args:
        decoder: for the title.
        confusion: actual -> decoded -> turns.
    """
    with extra("report"):
        from matplotlib.figure import Figure

        from respect_core.reporting.figures.confusions import TARGETS, draw_confusion

    counts = np.array([[confusion[actual][decoded] for decoded in _NAMES] for actual in _NAMES], dtype=float)
    figure = Figure(figsize=(4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    draw_confusion(axes, counts / max(counts.sum(), 1), TARGETS, counts=counts)
    axes.set_ylabel("by the targets")
    axes.set_title(f"{decoder} decoder, {counts.sum():.0f} turns")
    return figure


def success_figure(variants: Mapping[str, Mapping[str, Any]], words: Words) -> Figure:
    """Plot the success of the seed policy and of each variant on the same games."""
    with extra("report"):
        from matplotlib.figure import Figure

    played = {name: values for name, values in variants.items() if values["success_after"] is not None}
    before = next(iter(played.values()))["success_before"]
    figure = Figure(figsize=(5.5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.bar(list(played), [values["success_after"] for values in played.values()], color="#0072b2")
    axes.bar_label(bars, fmt="{:.0%}")
    axes.axhline(before, color="#d55e00", linestyle="--", label=f"seed policy, {before:.0%}")
    axes.set_ylim(0, 1)
    axes.set_ylabel(f"{words.interactions} {words.won}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
