"""Provide what all figures share: colours safe for colour-blind readers, panels, files, and inline SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

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
_DECIMALS = re.compile(r"(-?\d+\.\d{2})\d+")
_IDS = re.compile(r'(\bid="|href="#|url\(#)')


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
        _lay_out(figure)
        for ending, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 160})):
            unfinished = stem.with_name(f"{stem.name}.{ending}.tmp")
            figure.savefig(unfinished, format=ending, **options)
            files.append(unfinished.replace(stem.with_name(f"{stem.name}.{ending}")))
    return files


def inline_svg(figure: Figure, name: str) -> str:
    """Return the figure as an SVG element for a page: transparent, with black replaced by the page's text colour.

    Args:
        name: prefix of all its ids, which must differ from those of other figures on the page.
    """
    buffer = io.StringIO()
    with style():
        _lay_out(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", svg)
    svg = _IDS.sub(rf"\g<1>{name}-", svg.replace("xlink:href", "href"))
    svg = svg.replace("#000000", "currentColor").replace("#dddddd", "var(--line)")
    return _DECIMALS.sub(r"\1", svg)


def _lay_out(figure: Figure) -> None:
    """Compute the layout once rather than for each file: it takes longer than drawing."""
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


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
