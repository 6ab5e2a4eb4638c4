"""Tables 2, 3 and 4 of the paper for a study: policies by rounds, with 95% intervals, as CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass

from respect_core.metrics import Estimate, Figures
from respect_core.variants import CONTROL, HH

Results = Mapping[str, Mapping[int, Figures]]
"""Policy -> round -> figures; where a policy did not act there is no entry. Round 0 is shared among systems.

A figure that is None is shown as one that is not there.
"""

DASH = "-"


@dataclass(frozen=True)
class Table:
    """How one of the paper's tables is written."""

    number: int
    metric: str  # field of Figures
    title: str
    percent: bool
    higher_is_better: bool = True

    @property
    def file(self) -> str:
        """Name without its ending, e.g. table-2-success."""
        return f"table-{self.number}-{self.metric.replace('_', '-')}"

    def text(self, value: float) -> str:
        """A number as the paper prints it."""
        return f"{100 * value:.1f}" if self.percent else f"{value:.2f}"


TABLES = (
    Table(2, "success", "Interaction task success rate in percent", percent=True),
    Table(3, "turns_per_game", "Turns per interaction", percent=False, higher_is_better=False),
    Table(4, "click_accuracy", "Click accuracy in percent", percent=True),
)


def rounds(results: Results) -> list[int]:
    return sorted({number for by_round in results.values() for number in by_round})


def markdown(table: Table, results: Results) -> str:
    """Policies by rounds; the best variant of a round is bold where several acted, round 0 being shared."""
    numbers = rounds(results)
    best = {number: _best(table, results, number) for number in numbers}
    better = "higher" if table.higher_is_better else "lower"
    lines = [
        f"Table {table.number}: {table.title} ({better} is better), with 95% intervals.\n",
        "| round | " + " | ".join(map(str, numbers)) + " |",
        "|---" * (len(numbers) + 1) + "|",
    ]
    for policy, by_round in results.items():
        cells = [DASH] * len(numbers)
        for index, number in enumerate(numbers):
            if value := _estimate(table, by_round.get(number)):
                shown = table.text(value.value)
                shown = f"**{shown}**" if policy == best[number] else shown
                cells[index] = f"{shown} [{table.text(value.low)}, {table.text(value.high)}]"
        lines.append(f"| {policy.upper()} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def comma_separated(table: Table, results: Results) -> str:
    """The same with three columns a round: value, low and high, not rounded."""
    numbers, text = rounds(results), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["policy", *(f"{number}{part}" for number in numbers for part in ("", " low", " high"))])
    for policy, by_round in results.items():
        cells: list[str] = []
        for number in numbers:
            if value := _estimate(table, by_round.get(number)):
                cells += [f"{each:.6g}" for each in (value.value, value.low, value.high)]
            else:
                cells += [DASH] * 3
        writer.writerow([policy, *cells])
    return text.getvalue()


def _estimate(table: Table, figures: Figures | None) -> Estimate | None:
    value: Estimate | None = getattr(figures, table.metric) if figures else None
    return value


def _best(table: Table, results: Results, number: int) -> str | None:
    acted = {
        policy: value.value
        for policy, by_round in results.items()
        if policy not in (CONTROL, HH) and number > 0 and (value := _estimate(table, by_round.get(number)))
    }
    choose = max if table.higher_is_better else min
    return choose(acted, key=lambda policy: acted[policy]) if len(acted) > 1 else None
