"""The paper's figures, drawn without pyplot so that any thread may draw them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from respect_core.metrics import Estimate
from respect_core.multiref.game import MAX_TURNS
from respect_core.result_tables import Results
from respect_core.variants import CONTROL, HH

# Okabe and Ito's colours, which colour-blind readers tell apart; markers and dashes say the same again.
STYLES = {
    "b-fft": ("#0072b2", "o", "-"),
    "t-fft": ("#56b4e9", "s", "-"),
    "b-rl": ("#009e73", "^", "-"),
    "t-rl": ("#e69f00", "v", "-"),
    "b-kto": ("#d55e00", "D", "-"),
    "t-kto": ("#cc79a7", "P", "-"),
    CONTROL: ("#000000", "X", "--"),
    HH: ("#777777", "*", ":"),
}
_PANELS = (
    ("success", "games won"),
    ("turns_per_game", "turns per game"),
    ("click_accuracy", "click accuracy"),
)


def _style() -> AbstractContextManager[None]:
    """Text stays text in SVG, and the same figure gives the same file."""
    return mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "respect", "font.size": 10})


def figure_4(results: Results, *, title: str | None = None) -> Figure:
    """Success, turns per game and click accuracy by round, shaded with 95% bootstrap intervals.

    CONTROL is dashed from round 0 to the round in which the seed policy was deployed again; games between people (HH)
    are a dotted line.
    """
    with _style():
        figure = Figure(figsize=(9.6, 3.4), layout="constrained")
        panels = figure.subplots(1, len(_PANELS))
        for axes, (metric, label) in zip(panels, _PANELS, strict=True):
            _panel(axes, results, metric, label)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 8), frameon=False)
        if title:
            figure.suptitle(title, fontsize=11)
    return figure


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as SVG and PNG, each whole, beside each other; returns their paths."""
    written = []
    with _style():
        for ending, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 160})):
            unfinished = stem.with_name(f"{stem.name}.{ending}.tmp")
            figure.savefig(unfinished, format=ending, **options)
            written.append(unfinished.replace(stem.with_name(f"{stem.name}.{ending}")))
    return written


def _panel(axes: Axes, results: Results, metric: str, label: str) -> None:
    for policy, by_round in results.items():
        color, marker, dashes = STYLES.get(policy, ("#777777", ".", "-"))
        measured: dict[int, Estimate | None] = {each: getattr(by_round[each], metric) for each in sorted(by_round)}
        values = {number: value for number, value in measured.items() if value is not None}
        if not values:
            continue
        numbers = list(values)
        middle, low, high = zip(*((each.value, each.low, each.high) for each in values.values()), strict=True)
        if policy == HH:  # people do not learn here: one level for all rounds
            axes.axhline(middle[-1], color=color, linestyle=dashes, label=policy.upper())
            continue
        axes.plot(numbers, middle, color=color, marker=marker, linestyle=dashes, label=policy.upper())
        if policy == CONTROL or len(numbers) == 1:  # two points far apart: no band between them
            errors = [
                [m - a for m, a in zip(middle, low, strict=True)],
                [b - m for m, b in zip(middle, high, strict=True)],
            ]
            axes.errorbar(numbers, middle, errors, color=color, fmt="none", capsize=3)
        else:
            axes.fill_between(numbers, low, high, color=color, alpha=0.15, linewidth=0)
    axes.set_xlabel("round")
    axes.set_title(label, fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if metric == "turns_per_game":
        axes.set_ylim(0, MAX_TURNS / 2 + 0.3)  # the listener's turns
    else:
        axes.set_ylim(0, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
