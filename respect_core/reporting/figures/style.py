"""Provide what all figures share: colours safe for colour-blind readers, panels, a legend, and files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from respect_core.measuring.evidence import ENHANCED
from respect_core.variants import CONTROL, HH, SEED, Variant

# Okabe and Ito's colours; markers and dashes repeat the distinction.
STYLES = {
    Variant.B_FFT.value: ("#0072b2", "o", "-"),
    Variant.T_FFT.value: ("#56b4e9", "s", "-"),
    Variant.B_RL.value: ("#009e73", "^", "-"),
    Variant.T_RL.value: ("#e69f00", "v", "-"),
    Variant.B_KTO.value: ("#d55e00", "D", "-"),
    Variant.T_KTO.value: ("#cc79a7", "P", "-"),
    ENHANCED: ("#d55e00", "h", "-."),
    CONTROL: ("#000000", "X", "--"),
    HH: ("#777777", "*", ":"),
    SEED: ("#000000", "X", "-"),
}
OTHER = ("#777777", ".", "-")
_PANEL = (3.2, 2.9)  # width and height in inches, in a row of several
_ALONE = 4.2  # width of a panel that has the row to itself


def style() -> AbstractContextManager[None]:
    """Keep text as text in SVG, and make the same figure give the same file."""
    return mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "respect", "font.size": 10})


def panels(number: int, columns: int, size: tuple[float, float] = _PANEL) -> tuple[Figure, list[Axes]]:
    """Make an empty figure with this many panels in this many columns; `size` of each in inches."""
    columns = min(columns, number)
    lines = -(-number // columns)
    width = size[0] if columns > 1 else _ALONE
    figure = Figure(figsize=(width * columns, size[1] * lines + 0.5), layout="constrained")
    axes_list: list[Axes] = [figure.add_subplot(lines, columns, each + 1) for each in range(number)]
    for axes in axes_list:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    return figure, axes_list


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as SVG and PNG, atomically, and return their paths."""
    files = []
    with style():
        figure.draw_without_rendering()  # lays it out once rather than for each file: that takes longer than drawing
        figure.set_layout_engine("none")
        for ending, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 160})):
            unfinished = stem.with_name(f"{stem.name}.{ending}.tmp")
            figure.savefig(unfinished, format=ending, **options)
            files.append(unfinished.replace(stem.with_name(f"{stem.name}.{ending}")))
    return files


def legend(figure: Figure, axes: Sequence[Axes], columns: int) -> None:
    """Draw one legend below all panels."""
    handles = {label: handle for each in axes for handle, label in zip(*each.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="outside lower center",
            ncols=min(len(handles), columns),
            frameon=False,
        )
