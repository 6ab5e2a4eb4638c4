"""Published values against measured ones."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from respect_core.reporting.published import PUBLISHED, Cell, Verdict, comma_separated, verdicts
from respect_core.stats import Estimate


def found(measured: Mapping[Cell, Estimate | float]) -> dict[Cell, Verdict]:
    return {(each.table, each.row, each.column): each for each in verdicts(measured)}


def test_the_values_are_the_papers() -> None:
    assert PUBLISHED[2].values["b-fft", "6"] == 81.9
    assert PUBLISHED[4].values["t-kto", "2"] == 63.2
    assert PUBLISHED[5].values["Sim -FB", "control"] == 1.4
    assert PUBLISHED[6].values["hh", "6"] == 433
    assert PUBLISHED[8].values["b-kto", "3"] == 47
    assert ("t-fft", "4") not in PUBLISHED[2].values
    cells = {table: len(each.values) for table, each in PUBLISHED.items() if isinstance(table, int)}
    assert cells == {2: 30, 3: 30, 4: 30, 5: 36, 6: 30, 7: 30, 8: 27, 9: 27}


def test_the_published_numbers_agree_with_one_another() -> None:
    """Shares of figure 6 add up to 1, exact rates are whole games, and they round to tables 2 and 5."""
    for decoder in ("binary", "ternary"):
        values = PUBLISHED[f"figure 6, {decoder}"].values
        for number in range(3):
            total = sum(value for (row, _), value in values.items() if row.startswith(f"round {number}"))
            assert abs(total - 1) < 0.03  # nine rounded shares
    for (row, column), rate in PUBLISHED["success rate"].values.items():
        games = PUBLISHED["games"].values[row, column]
        assert abs(rate * games - round(rate * games)) < 1e-3
    measured: dict[Cell, Estimate | float] = {
        (2, *cell): value for cell, value in PUBLISHED["success rate"].values.items()
    }
    measured |= {(5, "Exact match", cell): value for (_, cell), value in PUBLISHED["exact match"].values.items()}
    compared = [each for each in verdicts(measured) if each.measured is not None]
    assert len(compared) == 16
    differing = [(each.row, each.column, each.why) for each in compared if not each.agrees]
    assert differing == [("Exact match", "6", "+0.24")]  # the notebook's is not the paper's


def test_a_cell_agrees_if_it_rounds_to_the_published_one() -> None:
    by_cell = found(
        {
            (2, "b-fft", "1"): Estimate(0.550955, 0.495, 0.605),
            (2, "b-fft", "2"): Estimate(0.6755, 0.62, 0.73),
            (2, "b-fft", "3"): Estimate(0.70, 0.65, 0.75),
            (3, "hh", "6"): 4.615,
            (6, "hh", "6"): 433,
            (8, "b-fft", "0"): 18,
            (2, "t-rl", "6"): 0.5,  # not published
        }
    )
    assert by_cell[2, "b-fft", "1"].agrees is True
    assert by_cell[2, "b-fft", "1"].why == "equal"
    near, far = by_cell[2, "b-fft", "2"], by_cell[2, "b-fft", "3"]
    assert (near.agrees, near.why) == (False, "+0.65, the published value is inside the interval")
    assert (far.agrees, far.why) == (False, "-8.70, the published value is outside the interval")
    assert (far.measured, far.low, far.high) == (70.0, 65.0, 75.0)
    assert by_cell[3, "hh", "6"].agrees is True  # a tie, whichever way it was rounded
    assert by_cell[6, "hh", "6"].agrees is True
    assert by_cell[8, "b-fft", "0"].agrees is False
    assert (by_cell[9, "b-fft", "0"].agrees, by_cell[9, "b-fft", "0"].why) == (None, "not measured")
    assert (2, "t-rl", "6") not in by_cell


def test_a_line_for_each_verdict() -> None:
    some = verdicts({(2, "b-fft", "6"): 0.819, (2, "hh", "6"): 0.98})
    rows = list(csv.DictReader(io.StringIO(comma_separated(some))))
    assert len(rows) == len(some)
    assert rows[6] == {
        "table": "2",
        "row": "b-fft",
        "column": "6",
        "published": "81.9",
        "measured": repr(100 * 0.819),
        "low": "",
        "high": "",
        "agrees": "True",
        "why": "equal",
    }
