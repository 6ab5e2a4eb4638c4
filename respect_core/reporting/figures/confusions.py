"""Draw figure 6: what the feedback decoders said against what was true, in shares of all turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from respect_core.measuring.cell import PolicyRound
from respect_core.measuring.decoder_metrics import Confusion
from respect_core.measuring.evidence import Cells
from respect_core.measuring.judge import Words
from respect_core.reporting.figures.style import panels, style
from respect_core.reporting.tables import PAPER
from respect_core.variants import CONTROL, HH, Variant

_DECODED = ("neg", "neu", "pos")
TARGETS = ("wrong", "partly right", "right")
"""Row names of labels derived from the targets."""
_ACTUAL = {
    "annotations": ("not satisfied", "partly", "satisfied"),
    "thumbs": ("thumb down", "none", "thumb up"),
    "targets": TARGETS,
}
_OF_TEXT = {"annotations": ("not satisfied", "neutral", "satisfied")}


def figure_6(cells: Cells, words: Words = PAPER) -> Figure | None:
    """Draw a confusion matrix for every decoder and round of one policy; None where there is nothing to compare with.

    See `respect_core.measuring.evidence`, deviation 1, for what the rows are; the axis names it.
    """
    policy = decoded_policy(cells)
    if policy is None:
        return None
    matrices = [
        (decoder, number, decoded)
        for decoder in ("binary", "ternary")
        for number, cell in sorted(cells[policy].items())
        if (decoded := cell.decoded.get(decoder)) is not None and decoded.confusion is not None
    ]
    across = max(sum(each == decoder for each, _, _ in matrices) for decoder in ("binary", "ternary"))
    with style():
        figure, axes = panels(len(matrices), across, size=(2.1, 2.1))
        for place, (each, (decoder, number, decoded)) in enumerate(zip(axes, matrices, strict=True)):
            assert decoded.confusion is not None and decoded.against is not None
            actual = _ACTUAL if words.paper else _ACTUAL | _OF_TEXT
            draw_confusion(each, _three_columns(decoded.confusion), actual[decoded.against])
            each.set_title(f"{decoder}, round {number}", fontsize=10)
            if place % across:
                each.set_yticklabels([])
    return figure


def decoded_policy(cells: Cells) -> str | None:
    """Choose figure 6's policy: B-FFT, as in the paper, or the first whose decoded labels can be compared."""

    def compared(by_round: Mapping[int, PolicyRound]) -> bool:
        return any(decoded.confusion for cell in by_round.values() for decoded in cell.decoded.values())

    learning = [policy for policy in cells if policy not in (CONTROL, HH)]
    preferred = sorted(learning, key=lambda policy: policy != Variant.B_FFT)
    return next((policy for policy in preferred if compared(cells[policy])), None)


def _three_columns(confusion: Confusion) -> NDArray[np.float64]:
    """Widen the matrix to a column per label: NaN for labels that the decoder does not know."""
    matrix = np.full((len(_DECODED), len(_DECODED)), np.nan)
    matrix[:, [label + 1 for label in confusion.predicted]] = confusion.matrix
    return matrix


def draw_confusion(axes: Axes, shares: ArrayLike, actual: Sequence[str], counts: ArrayLike | None = None) -> None:
    """Draw a matrix of shares of all turns [3, 3], rows actual and columns decoded, from negative to positive.

    NaN is drawn as a dash.
    """
    values = np.asarray(shares, dtype=float)
    blues = mpl.colormaps["Blues"].with_extremes(bad="#eceef2")
    axes.pcolormesh(np.ma.masked_invalid(values), cmap=blues, vmin=0, vmax=0.7, edgecolors="#ffffff", linewidth=1)
    for row, column in np.ndindex(values.shape):
        if np.isnan(values[row, column]):
            axes.text(column + 0.5, row + 0.5, "-", ha="center", va="center", color="#111111")
            continue
        text = f"{values[row, column]:.2f}"
        if counts is not None:
            text += f"\n({np.asarray(counts)[row, column]:.0f})"
        color = "#ffffff" if values[row, column] > 0.4 else "#111111"  # also on a dark page, since cells are light
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=color)
    axes.set_xticks(np.arange(len(_DECODED)) + 0.5, _DECODED)
    axes.set_yticks(np.arange(len(actual)) + 0.5, actual)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.tick_params(length=0)
    axes.set_xlabel("decoded")
    axes.spines[:].set_visible(False)
