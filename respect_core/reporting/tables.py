"""Fill in tables 2 to 9 of the paper: policies by rounds, with 95% intervals where they exist, as CSV and Markdown.

Deviations from the paper, numbered as they are cited elsewhere:
1. Figures carry their intervals, and tables 8 and 9 have rows for CONTROL and HH where these acted.
2. Bold is the best variant of a round in which several acted; CONTROL, HH and round 0, which is shared, are not
   compared. (The paper's table 2 has T-FFT's 67.8 in round 2 beside a bold 66.9.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from respect_core.measuring.evidence import Cells, rounds_of
from respect_core.measuring.judge import Words
from respect_core.measuring.metrics import Estimate
from respect_core.scenarios.multiref.judge import JUDGE
from respect_core.variants import CONTROL, HH, Variant

DASH = "-"
PAPER = JUDGE.words
"""The words of the paper's scenario."""
Value = Estimate | int
"""A figure with its interval, or a count."""


@dataclass(frozen=True)
class Table:
    """The definition of one of the paper's tables. `name`: of the figure in a policy's round.

    The title is a format of the scenario's `Words`.
    """

    number: int
    name: str
    title: str
    unit: Literal["percent", "number"] = "number"
    better: Literal["higher", "lower"] | None = None

    def file(self, words: Words) -> str:
        """Return the file's name without suffix, e.g. table-2-success."""
        name = words.accuracy.replace(" ", "-") if self.name == "click_accuracy" else self.name.replace("_", "-")
        return f"table-{self.number}-{name}"


TABLES = (
    Table(2, "success", "Interaction task success rate in percent", "percent", "higher"),
    Table(3, "turns_per_game", "Turns per interaction", better="lower"),
    Table(4, "click_accuracy", "{0.accuracy} in percent", "percent", "higher"),
)
"""Tables that need nothing but the games."""

LANGUAGE_TABLES = (
    Table(6, "vocabulary", "Vocabulary size of {0.messages}"),
    Table(7, "utterance_length", "Utterance length of {0.messages} in words"),
    Table(8, "resets", "Reset words in {0.messages}"),
    Table(9, "try_agains", "Try-again words in {0.messages}"),
)

FOLLOW_UP_TABLES = (
    Table(21, "negative_follow_ups", "Follow-ups decoded as negative, in percent", "percent", "lower"),
    Table(22, "neutral_follow_ups", "Follow-ups decoded as neutral, in percent", "percent"),
    Table(23, "positive_follow_ups", "Follow-ups decoded as positive, in percent", "percent", "higher"),
)
"""Tables that the paper does not have, whose intervals resample users."""

TURN_ROWS = {
    "Exact match": "exact_match",
    "Pos Feedback": "positive_feedback",
    "Sim": "similarity",
    "Sim -FB": "similarity_negative",
}
"""The rows of table 5, and the figure in each."""


@dataclass(frozen=True)
class Plain:
    """A table of text; a row's first cell names it. A figure may be in bold, as in Markdown, and have an interval."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    name: str = ""

    def markdown(self) -> str:
        """Return the table in Markdown, under its caption."""
        title = f"{self.name}: {self.caption}" if self.name else self.caption
        lines = (self.columns, ["---"] * len(self.columns), *self.rows)
        return f"{title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


@dataclass(frozen=True)
class Grid:
    """A table filled in. `rows` by name, each with a value per column, None where it has none."""

    number: int
    file: str
    title: str
    percent: bool
    of: Literal["policy", "metric"]  # what a row is
    columns: tuple[str, ...]  # rounds, and in table 5 control and hh
    rows: Mapping[str, tuple[Value | None, ...]]
    best: Mapping[int, str]  # column -> the row in bold
    numbered: bool = True  # whether it bears its number in the paper

    @property
    def name(self) -> str:
        """What the table is called: its number in the paper, or else what it is about."""
        return (
            f"table {self.number}" if self.numbered else f"“{self.title.partition(' (')[0].split(', ')[0].rstrip('.')}”"
        )

    def label(self, name: str) -> str:
        """Return the name of a row or column as the paper prints it."""
        return name.upper() if name not in TURN_ROWS else name.replace("Sim", "Sim(â, a*)")

    def text(self, value: float) -> str:
        """Format a number as the paper prints it; counts are whole."""
        if isinstance(value, int):
            return str(value)
        return f"{100 * value:.1f}" if self.percent else f"{value:.2f}"

    def cell(self, value: Value | None, bold: bool = False) -> str:
        """Format a value with its interval."""
        if not isinstance(value, Estimate):
            return DASH if value is None else str(value)
        text = self.text(value.value)
        return f"{f'**{text}**' if bold else text} [{self.text(value.low)}, {self.text(value.high)}]"

    def plain(self) -> Plain:
        """Format the table as text."""
        rows = (
            (self.label(name), *(self.cell(value, self.best.get(place) == name) for place, value in enumerate(row)))
            for name, row in self.rows.items()
        )
        return Plain(
            self.title,
            ("round", *map(self.label, self.columns)),
            tuple(rows),
            self.name.capitalize() if self.numbered else "",
        )


def grid(table: Table, cells: Cells, words: Words = PAPER) -> Grid:
    """Fill in a table of policies by rounds."""
    title = table.title.format(words)
    numbers = rounds_of(cells)
    values = {
        policy: tuple(by_round[number].figure(table.name) if number in by_round else None for number in numbers)
        for policy, by_round in cells.items()
    }
    better = f" ({table.better} is better)" if table.better else ""
    has_intervals = any(isinstance(value, Estimate) for row in values.values() for value in row)
    return Grid(
        number=table.number,
        file=table.file(words),
        title=f"{title[0].upper()}{title[1:]}{better}{', with 95% intervals' if has_intervals else ''}.",
        percent=table.unit == "percent",
        of="policy",
        columns=tuple(map(str, numbers)),
        rows=values,
        best=_best(table, values, numbers) if table.better else {},
        numbered=words.paper,
    )


def table_5(cells: Cells) -> Grid | None:
    """Fill in turn-level performance against annotators, for the most annotated policy; None without annotations.

    As in the paper, the columns are the rounds of B-FFT, then CONTROL and HH; another policy takes B-FFT's place where
    B-FFT was not annotated.
    """
    annotated = {
        policy: {number: cell for number, cell in by_round.items() if cell.turn_figures}
        for policy, by_round in cells.items()
    }
    policy = annotated_policy(cells)
    if policy is None:
        return None
    columns = {str(number): annotated[policy][number] for number in sorted(annotated[policy])}
    for other in (CONTROL, HH):
        # Its last round. In round 0 CONTROL is the seed policy, which is in the policy's own column.
        by_round = annotated.get(other)
        if other != policy and by_round and ((last := max(by_round)) > 0 or other == HH):
            columns[other] = by_round[last]
    return Grid(
        number=5,
        file="table-5-turns",
        title=f"Turn-level performance of {policy.upper()} against annotators in percent (higher is better), "
        "with 95% intervals.",
        percent=True,
        of="metric",
        columns=tuple(columns),
        rows={row: tuple(cell.figure(name) for cell in columns.values()) for row, name in TURN_ROWS.items()},
        best={},
    )


def annotated_policy(cells: Cells) -> str | None:
    """Choose the policy of table 5 and figure 5: B-FFT where it was annotated, else the one with the most turns."""
    turns = {
        policy: sum(cell.turn_figures.turns for cell in by_round.values() if cell.turn_figures)
        for policy, by_round in cells.items()
    }
    if turns.get(Variant.B_FFT):
        return Variant.B_FFT.value
    return max((each for each in turns if turns[each]), key=lambda each: turns[each], default=None)


def grids(cells: Cells, words: Words = PAPER) -> list[Grid]:
    """Fill in tables 2 to 9, in order, and those of follow-ups, leaving out those without a value."""
    five = table_5(cells)
    filled = [
        *(grid(table, cells, words) for table in TABLES),
        *([replace(five, numbered=words.paper)] if five else []),
    ]
    filled += [grid(table, cells, words) for table in (*LANGUAGE_TABLES, *FOLLOW_UP_TABLES)]
    return [each for each in filled if any(value is not None for row in each.rows.values() for value in row)]


def comma_separated(filled: Grid) -> str:
    """Format the table as CSV, not rounded; a column with intervals becomes three: value, low and high."""
    frame = pd.DataFrame(index=pd.Index(filled.rows, name=filled.of))
    for name, values in zip(filled.columns, zip(*filled.rows.values(), strict=True), strict=True):
        if any(isinstance(value, Estimate) for value in values):
            for part in ("value", "low", "high"):
                frame[f"{name} {part}".removesuffix(" value")] = [getattr(value, part, None) for value in values]
        else:
            frame[name] = pd.array(values, "Int64")
    return frame.to_csv(na_rep=DASH, float_format="%.6g")


def write(filled: Sequence[Grid], folder: Path) -> list[Path]:
    """Write a CSV and a Markdown file for each table, and return their paths."""
    return [
        put(folder / f"{each.file}.{ending}", text)
        for each in filled
        for ending, text in (("csv", comma_separated(each)), ("md", each.plain().markdown()))
    ]


def put(file: Path, text: str) -> Path:
    """Write a file atomically, and return its path."""
    unfinished = file.with_name(f"{file.name}.tmp")
    unfinished.write_text(text)
    return unfinished.replace(file)


def _best(table: Table, values: Mapping[str, tuple[Value | None, ...]], numbers: Sequence[int]) -> dict[int, str]:
    """Return by column the best variant of that round, where several acted; round 0 is shared."""
    best = {}
    choose = max if table.better == "higher" else min
    for column, number in enumerate(numbers):
        scores = {
            policy: value.value
            for policy, row in values.items()
            if policy not in (CONTROL, HH) and number > 0 and isinstance(value := row[column], Estimate)
        }
        if len(scores) > 1:
            best[column] = choose(scores, key=lambda policy: scores[policy])
    return best
