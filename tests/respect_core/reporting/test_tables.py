"""Tables 2 to 9."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

from reports import figures

from respect_core.measuring.cell import PolicyRound
from respect_core.measuring.evidence import Cells
from respect_core.measuring.language import Language
from respect_core.measuring.metrics import Estimate
from respect_core.measuring.turn_metrics import TurnFigures
from respect_core.reporting.tables import (
    LANGUAGE_TABLES,
    TABLES,
    comma_separated,
    grid,
    grids,
    table_5,
    write,
)


def _cell(success: float) -> PolicyRound:
    return PolicyRound(figures(success))


RESULTS: Cells = {
    "b-fft": {0: _cell(0.3), 1: _cell(0.5), 2: _cell(0.625)},
    "t-rl": {0: _cell(0.3), 1: _cell(0.55)},
    "control": {0: _cell(0.3), 2: _cell(0.31)},
    "hh": {2: _cell(0.9)},
}


def test_tables_as_the_paper_prints_them() -> None:
    lines = grid(TABLES[0], RESULTS).plain().markdown().splitlines()
    assert lines[0] == "Table 2: Interaction task success rate in percent (higher is better), with 95% intervals."
    assert lines[2:] == [
        "| round | 0 | 1 | 2 |",
        "| --- | --- | --- | --- |",
        "| B-FFT | 30.0 [25.0, 35.0] | 50.0 [45.0, 55.0] | 62.5 [57.5, 67.5] |",  # alone in round 2: not bold
        "| T-RL | 30.0 [25.0, 35.0] | **55.0** [50.0, 60.0] | - |",
        "| CONTROL | 30.0 [25.0, 35.0] | - | 31.0 [26.0, 36.0] |",
        "| HH | - | - | 90.0 [85.0, 95.0] |",
    ]
    assert "**7.25** [6.25, 8.25]" in grid(TABLES[1], RESULTS).plain().markdown()  # fewest turns


def test_the_same_as_comma_separated_values() -> None:
    header, *rows = csv.reader(io.StringIO(comma_separated(grid(TABLES[2], RESULTS))))
    assert header == ["policy", "0", "0 low", "0 high", "1", "1 low", "1 high", "2", "2 low", "2 high"]
    assert rows[1] == ["t-rl", "0.3", "0.25", "0.35", "0.55", "0.5", "0.6", "-", "-", "-"]
    assert [row[0] for row in rows] == list(RESULTS)


def test_a_policy_that_never_clicks_has_a_dash() -> None:
    silent = {
        "b-fft": {0: _cell(0.3), 1: PolicyRound(replace(figures(0.0), click_accuracy=None))},
        "t-rl": RESULTS["t-rl"],
    }
    assert grid(TABLES[2], silent).plain().markdown().splitlines()[4:] == [
        "| B-FFT | 30.0 [25.0, 35.0] | - |",
        "| T-RL | 30.0 [25.0, 35.0] | 55.0 [50.0, 60.0] |",
    ]
    assert comma_separated(grid(TABLES[2], silent)).splitlines()[1].endswith("0.35,-,-,-")


def test_language_has_counts_without_intervals() -> None:
    spoken = Language(900, 1458, Estimate(8.78, 8.5, 9.0), 19, 0)
    cells = {"b-fft": {0: PolicyRound(language=spoken), 1: PolicyRound()}}
    six, seven, _, nine = (grid(table, cells) for table in LANGUAGE_TABLES)
    assert six.plain().markdown().splitlines()[-1] == "| B-FFT | 1458 | - |"
    assert "95%" not in six.plain().markdown()
    assert seven.plain().markdown().splitlines()[-1] == "| B-FFT | 8.78 [8.50, 9.00] | - |"
    assert comma_separated(nine) == "policy,0,1\nb-fft,0,-\n"  # nothing said so is a number, not known is a dash


def turns(exact: float) -> PolicyRound:
    share = Estimate(exact, exact - 0.1, exact + 0.1)
    return PolicyRound(turn_figures=TurnFigures(10, share, None, None, share))


def test_table_5_has_control_and_people_beside_the_rounds() -> None:
    cells = {
        "b-fft": {0: turns(0.3), 1: PolicyRound(), 2: turns(0.5)},
        "control": {0: turns(0.3), 2: turns(0.2)},
        "hh": {2: turns(0.8)},
    }
    five = table_5(cells)
    assert five is not None and five.columns == ("0", "2", "control", "hh")
    lines = five.plain().markdown().splitlines()
    assert lines[2] == "| round | 0 | 2 | CONTROL | HH |"
    assert lines[4] == (
        "| Exact match | 30.0 [20.0, 40.0] | 50.0 [40.0, 60.0] | 20.0 [10.0, 30.0] | 80.0 [70.0, 90.0] |"
    )
    assert lines[6] == "| Sim(â, a*) | - | - | - | - |"
    assert [row[0] for row in csv.reader(io.StringIO(comma_separated(five)))] == ["metric", *five.rows]
    assert table_5(RESULTS) is None


def test_table_5_has_people_who_played_in_round_0() -> None:
    """Where CONTROL has nothing of its own: it is the seed policy, which is the column of round 0 already."""
    five = table_5({"b-fft": {0: turns(0.3), 1: turns(0.4)}, "control": {0: turns(0.3)}, "hh": {0: turns(0.8)}})
    assert five is not None and five.columns == ("0", "1", "hh")
    assert "| Exact match | 30.0 [20.0, 40.0] | 40.0 [30.0, 50.0] | 80.0 [70.0, 90.0] |" in five.plain().markdown()


def test_only_tables_that_say_something_are_written(tmp_path: Path) -> None:
    made = grids(RESULTS)
    assert [each.number for each in made] == [2, 3, 4]
    written = write(made, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written)
    assert (tmp_path / "table-3-turns-per-game.csv").read_text() == comma_separated(made[1])
