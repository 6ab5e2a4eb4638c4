"""Draw figures 4, 5, 7, 14 and 15: what changes from round to round, shaded with 95% bootstrap intervals.

CONTROL is dashed from round 0 to the round in which the seed policy was deployed again; games between people (HH) are
a dotted line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from respect_core.measuring.evidence import ENHANCED, Cells
from respect_core.measuring.judge import Words
from respect_core.reporting.figures.style import OTHER, STYLES, legend, panels, style
from respect_core.reporting.tables import PAPER, Value, annotated_policy
from respect_core.scenarios.multiref.game import MAX_TURNS
from respect_core.variants import CONTROL, HH, Variant


@dataclass(frozen=True)
class Panel:
    """One plot. `name`: of the figure in a policy's round."""

    title: str
    name: str
    axis: Literal["share", "turns", "count"] = "share"


FOLLOW_UPS = tuple(Panel(f"{label} follow-ups", f"{label}_follow_ups") for label in ("negative", "neutral", "positive"))
FIGURE_7 = (
    Panel("vocabulary, words", "vocabulary", "count"),
    Panel("utterance length, words", "utterance_length", "count"),
    Panel("reset words", "resets", "count"),
    Panel("try-again words", "try_agains", "count"),
)


def figure_4(cells: Cells, *, title: str | None = None, words: Words = PAPER) -> Figure | None:
    """Draw success, turns per game and click accuracy by round; None where no game has an outcome."""
    turns = Panel(f"turns per {words.interaction}", "turns_per_game", "turns" if words.paper else "count")
    return _draw(cells, (_success(words), turns, Panel(words.accuracy, "click_accuracy")), 3, title)


def _success(words: Words) -> Panel:
    return Panel(f"{words.interactions} {words.won}", "success")


def follow_ups(cells: Cells) -> Figure | None:
    """Draw the shares of negative, neutral and positive follow-ups by round; None where none were measured."""
    return _draw(cells, FOLLOW_UPS, 3)


def figure_5(cells: Cells) -> Figure | None:
    """Draw exact match, similarity and positive feedback against annotators; None without annotations.

    The middle panel also has the similarity of actions whose feedback was negative (NEG FB).
    """
    policy = annotated_policy(cells)
    if policy is None:
        return None

    compared = {each: by_round for each, by_round in cells.items() if each in (policy, CONTROL, HH)}
    with style():
        figure, axes = panels(3, 3)
        _panel(axes[0], compared, Panel("exact match", "exact_match"))
        _panel(axes[1], compared, Panel("similarity to a*", "similarity"))
        negative = Panel("similarity to a*", "similarity_negative")
        _panel(axes[1], {policy: cells[policy]}, negative, ", NEG FB", dashes=(0, (1, 1)))
        _panel(axes[2], compared, Panel("positive feedback", "positive_feedback"))
        axes[1].set_ylim(min(0.0, axes[1].dataLim.y0 - 0.05), 1.03)
        legend(figure, axes, 4)
    return figure


def figure_7(cells: Cells) -> Figure | None:
    """Draw the speakers' language: vocabulary, utterance length, reset and try-again words; None if there is none."""
    return _draw(cells, FIGURE_7, 2)


def figure_14(learned_from: Mapping[str, Mapping[int, int]]) -> Figure | None:
    """Draw the cumulative number of interactions up to each round, for every policy that learns; None if none does."""
    if not learned_from:
        return None
    with style():
        figure, (axes,) = panels(1, 1)
        for policy, by_round in learned_from.items():
            _line(axes, policy, dict(sorted(by_round.items())), policy.upper())
        _finish(axes, "interactions so far", "count")
        legend(figure, [axes], 3)
    return figure


def figure_15(cells: Cells) -> Figure | None:
    """Draw the success of B-FFT with and without enhanced adapters; None where the former was not deployed."""
    if ENHANCED not in cells:
        return None
    both = {policy: cells[policy] for policy in (Variant.B_FFT.value, ENHANCED) if policy in cells}
    return _draw(both, (_success(PAPER),), 1)


def _draw(cells: Cells, plots: Sequence[Panel], columns: int, title: str | None = None) -> Figure | None:
    values = (cell.figure(panel.name) for panel in plots for by_round in cells.values() for cell in by_round.values())
    if all(value is None for value in values):
        return None
    with style():
        figure, axes = panels(len(plots), columns, size=(9.6 / columns, 2.9))
        for each, panel in zip(axes, plots, strict=True):
            _panel(each, cells, panel)
        legend(figure, axes, 8 if columns > 1 else 3)
        if title:
            figure.suptitle(title, fontsize=11)
    return figure


def _panel(
    axes: Axes, cells: Cells, panel: Panel, suffix: str = "", dashes: tuple[int, tuple[int, int]] | None = None
) -> None:
    for policy, by_round in cells.items():
        read = {number: by_round[number].figure(panel.name) for number in sorted(by_round)}
        values = {number: value for number, value in read.items() if value is not None}
        if values:
            _line(axes, policy, values, policy.upper() + suffix, dashes)
    _finish(axes, panel.title, panel.axis)


def _line(
    axes: Axes,
    policy: str,
    values: Mapping[int, Value],
    label: str,
    dashes: tuple[int, tuple[int, int]] | None = None,
) -> None:
    color, marker, usual = STYLES.get(policy, OTHER)
    numbers = list(values)
    middle, low, high = zip(*(_bounds(value) for value in values.values()), strict=True)
    if policy == HH:  # people do not learn here: one level for all rounds
        axes.axhline(middle[-1], color=color, linestyle=usual, label=label)
        return
    axes.plot(numbers, middle, color=color, marker=marker, markersize=5, linestyle=dashes or usual, label=label)
    if policy == CONTROL or len(numbers) == 1:  # two points far apart: no band between them
        errors = [
            [m - a for m, a in zip(middle, low, strict=True)],
            [b - m for m, b in zip(middle, high, strict=True)],
        ]
        axes.errorbar(numbers, middle, errors, color=color, fmt="none", capsize=3)
    else:
        axes.fill_between(numbers, low, high, color=color, alpha=0.15, linewidth=0)


def _bounds(value: Value) -> tuple[float, float, float]:
    return (value, value, value) if isinstance(value, int) else (value.value, value.low, value.high)


def _finish(axes: Axes, title: str, axis: str) -> None:
    axes.set_xlabel("round")
    axes.set_title(title, fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    if axis == "turns":
        axes.set_ylim(0, MAX_TURNS / 2 + 0.3)  # the listener's turns
    elif axis == "share":
        axes.set_ylim(0, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    else:
        axes.set_ylim(0, 1.06 * axes.get_ylim()[1])
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
