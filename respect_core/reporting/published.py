"""Hold the values that the paper and its released data give, and check whether measured ones agree with them.

Sources: tables 2 to 9 (appendix E), figure 6 (section 6), the agreement of annotators (appendix A.2), and the
notebook published with the data where it prints more digits: success rates with their games, and exact match.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from respect_core.stats import Estimate

Table = int | str
"""2 to 9 for the paper's tables; otherwise as in PUBLISHED."""
Cell = tuple[Table, str, str]
"""Table, row and column: (2, "b-fft", "6") is B-FFT's success rate in round 6; (5, "Exact match", "hh")."""


@dataclass(frozen=True)
class Published:
    """A table as printed: values by row and column, their unit and their digits."""

    title: str
    unit: float  # 100: printed in percent, where we measure rates between 0 and 1
    digits: int  # after the point
    values: Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class Verdict:
    """A cell as published and as measured, in the unit of the published table."""

    table: Table
    row: str
    column: str
    published: float
    measured: float | None  # None: not measured
    low: float | None
    high: float | None
    agrees: bool | None  # whether `measured` rounds to `published`; None where it was not measured
    why: str


def _table(text: str, columns: str = "0 1 2 3 4 5 6") -> dict[tuple[str, str], float]:
    """Parse rows of a name and its cells, where a dash means none."""
    values = {}
    for line in text.strip().splitlines():
        *words, name = reversed(line.replace("|", " ").split())
        for column, word in zip(columns.split(), reversed(words), strict=True):
            if word != "-":
                values[name.replace("_", " "), column] = float(word)
    return values


_TURN_LEVEL = "0 1 2 3 4 5 6 control hh"
_PREDICTED = {"binary": "-1 1", "ternary": "-1 0 1"}

# rows: round and actual label
_FIGURE_6 = {
    "binary": """
        round_0,_-1 | 0.46 0.02
        round_0,_0  | 0.12 0.07
        round_0,_1  | 0.16 0.17
        round_1,_-1 | 0.46 0.01
        round_1,_0  | 0.08 0.06
        round_1,_1  | 0.15 0.24
        round_2,_-1 | 0.44 0.02
        round_2,_0  | 0.06 0.05
        round_2,_1  | 0.14 0.29""",
    "ternary": """
        round_0,_-1 | 0.38 0.09 0.01
        round_0,_0  | 0.07 0.08 0.04
        round_0,_1  | 0.07 0.12 0.14
        round_1,_-1 | 0.42 0.04 0.01
        round_1,_0  | 0.05 0.05 0.04
        round_1,_1  | 0.07 0.12 0.20
        round_2,_-1 | 0.41 0.04 0.01
        round_2,_0  | 0.04 0.03 0.04
        round_2,_1  | 0.06 0.13 0.24""",
}

PUBLISHED: Mapping[Table, Published] = {
    2: Published(
        "Success rate, %",
        100,
        1,
        _table("""
            b-fft   | 31.4 55.1 66.9 78.7 77.1 77.3 81.9
            t-fft   | 31.4 55.8 67.8 74.0 -    -    -
            b-rl    | 31.4 50.0 64.4 70.7 -    -    -
            t-rl    | 31.4 56.8 62.4 70.3 -    -    -
            b-kto   | 31.4 45.1 52.0 46.9 -    -    -
            t-kto   | 31.4 50.0 61.7 66.1 -    -    -
            control | 31.4 -    -    -    -    -    33.0
            hh      | -    -    -    -    -    -    100.0"""),
    ),
    3: Published(
        "Turns per interaction",
        1,
        2,
        _table("""
            b-fft   | 8.87 8.16 7.33 6.99 6.92 6.87 6.71
            t-fft   | 8.87 7.95 7.44 7.14 -    -    -
            b-rl    | 8.87 8.10 7.42 7.22 -    -    -
            t-rl    | 8.87 7.94 7.60 7.24 -    -    -
            b-kto   | 8.87 8.15 7.66 8.03 -    -    -
            t-kto   | 8.87 8.06 7.56 7.27 -    -    -
            control | 8.87 -    -    -    -    -    8.75
            hh      | -    -    -    -    -    -    4.61"""),
    ),
    4: Published(
        "Click accuracy, %",
        100,
        1,
        _table("""
            b-fft   | 59.7 64.0 67.2 69.9 69.8 69.5 72.2
            t-fft   | 59.7 65.2 67.1 68.9 -    -    -
            b-rl    | 59.7 63.8 66.6 68.8 -    -    -
            t-rl    | 59.7 64.9 65.0 67.0 -    -    -
            b-kto   | 59.7 60.7 61.6 58.5 -    -    -
            t-kto   | 59.7 62.1 63.2 64.0 -    -    -
            control | 59.7 -    -    -    -    -    60.5
            hh      | -    -    -    -    -    -    89.3"""),
    ),
    5: Published(
        "Turn-level performance of B-FFT by human evaluation, %",
        100,
        1,
        _table(
            """
            Exact_match  | 30.7 38.4 44.8 47.2 48.7 46.7 52.3 31.7 79.1
            Pos_Feedback | 33.0 39.2 43.1 47.5 49.1 49.4 50.4 34.6 78.4
            Sim          | 19.0 34.8 42.5 46.0 47.7 43.5 51.3 19.4 83.8
            Sim_-FB      | 0.0  13.6 19.2 23.9 23.3 15.6 25.7 1.4  67.9""",
            _TURN_LEVEL,
        ),
    ),
    6: Published(
        "Vocabulary size",
        1,
        0,
        _table("""
            b-fft   | 1458 1400 1283 1179 1206 1211 1307
            t-fft   | 1458 1361 1279 1206 -    -    -
            b-rl    | 1458 1352 1248 1187 -    -    -
            t-rl    | 1458 1310 1306 1164 -    -    -
            b-kto   | 1458 1324 1183 1238 -    -    -
            t-kto   | 1458 1303 1332 1184 -    -    -
            control | 1458 -    -    -    -    -    1311
            hh      | -    -    -    -    -    -    433"""),
    ),
    7: Published(
        "Utterance length",
        1,
        2,
        _table("""
            b-fft   | 8.78 8.87 7.94 8.49 8.53 8.30 9.23
            t-fft   | 8.78 8.69 8.24 8.49 -    -    -
            b-rl    | 8.78 8.29 7.94 8.45 -    -    -
            t-rl    | 8.78 8.42 8.39 8.26 -    -    -
            b-kto   | 8.78 8.29 8.59 8.57 -    -    -
            t-kto   | 8.78 8.05 8.41 8.05 -    -    -
            control | 8.78 -    -    -    -    -    8.19
            hh      | -    -    -    -    -    -    8.49"""),
    ),
    8: Published(
        "Reset words",
        1,
        0,
        _table("""
            b-fft | 19 11 14 7  6 9 6
            t-fft | 19 5  3  2  - - -
            b-rl  | 19 10 17 9  - - -
            t-rl  | 19 3  9  6  - - -
            b-kto | 19 17 42 47 - - -
            t-kto | 19 13 21 8  - - -"""),
    ),
    9: Published(
        "Try-again words",
        1,
        0,
        _table("""
            b-fft | 42 24 14 3 4 4 14
            t-fft | 42 15 7  5 - - -
            b-rl  | 42 16 12 4 - - -
            t-rl  | 42 21 15 6 - - -
            b-kto | 42 20 5  9 - - -
            t-kto | 42 11 6  6 - - -"""),
    ),
    "figure 6, binary": Published(
        "Confusion of the binary decoder: actual label by decoded one, share of turns",
        1,
        2,
        _table(_FIGURE_6["binary"], _PREDICTED["binary"]),
    ),
    "figure 6, ternary": Published(
        "Confusion of the ternary decoder: actual label by decoded one, share of turns",
        1,
        2,
        _table(_FIGURE_6["ternary"], _PREDICTED["ternary"]),
    ),
    "appendix A.2": Published(
        "Agreement of three annotators, %",
        100,
        0,
        {("correctness", ""): 85, ("action", ""): 65, ("satisfaction", ""): 93},
    ),
    "games": Published(
        "Games of a policy in a round",
        1,
        0,
        _table("""
            b-fft  | 353 314 338 314 328 326 320
            b-fft+ | -   -   -   -   330 311 -"""),
    ),
    "success rate": Published(
        "Success rate, to six digits",
        1,
        6,
        _table("""
            b-fft  | 0.314448 0.550955 0.668639 0.786624 0.771341 0.773006 0.818750
            b-fft+ | -        -        -        -        0.812121 0.826367 -"""),
    ),
    "exact match": Published(
        "Exact match by human evaluation, to six digits",
        1,
        6,
        _table("b-fft | 0.307460 0.383616 0.447791 0.471545 0.487153 0.466667 0.525355 0.316650 0.791111", _TURN_LEVEL),
    ),
}


def verdicts(
    measured: Mapping[Cell, Estimate | float], published: Mapping[Table, Published] = PUBLISHED
) -> list[Verdict]:
    """Compare every published cell with its measured value, in the order of `published`.

    A cell agrees if the measured value, in the published unit, rounds to the published one; counts are compared
    exactly. Measured values without a published cell are left out.

    Args:
        measured: by cell; rates between 0 and 1, as our metrics give them.
    """
    return [
        _verdict(table, row, column, value, source, measured.get((table, row, column)))
        for table, source in published.items()
        for (row, column), value in source.values.items()
    ]


def _verdict(
    table: Table, row: str, column: str, value: float, source: Published, measured: Estimate | float | None
) -> Verdict:
    if measured is None:
        return Verdict(table, row, column, value, None, None, None, None, "not measured")
    if isinstance(measured, Estimate):
        number, low, high = (source.unit * each for each in (measured.value, measured.low, measured.high))
        inside = f", the published value is {'inside' if low <= value <= high else 'outside'} the interval"
    else:
        number, low, high, inside = source.unit * measured, None, None, ""
    # Half a unit of the last digit to either side, since ties may have been rounded either way.
    agrees = abs(number - value) <= 0.5 * 10**-source.digits + 1e-9 if source.digits else round(number) == value
    why = "equal" if agrees else f"{number - value:+.{source.digits + 1}f}{inside}"
    return Verdict(table, row, column, value, number, low, high, agrees, why)


def comma_separated(found: Sequence[Verdict]) -> str:
    """Format verdicts as CSV, one line each, under the names of their fields; None is empty."""
    return pd.DataFrame(found, dtype=object).to_csv(index=False)
