"""Tables 2 to 4 and figure 4."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

from respect_core.figures import figure_4, save
from respect_core.metrics import Estimate, Figures
from respect_core.result_tables import TABLES, comma_separated, markdown


def _figures(success: float) -> Figures:
    rate = Estimate(success, success - 0.05, success + 0.05)
    turns = Estimate(10 - 5 * success, 9 - 5 * success, 11 - 5 * success)
    return Figures(100, rate, turns, rate)


RESULTS = {
    "b-fft": {0: _figures(0.3), 1: _figures(0.5), 2: _figures(0.625)},
    "t-rl": {0: _figures(0.3), 1: _figures(0.55)},
    "control": {0: _figures(0.3), 2: _figures(0.31)},
    "hh": {2: _figures(0.9)},
}


def test_tables_as_the_paper_prints_them() -> None:
    lines = markdown(TABLES[0], RESULTS).splitlines()
    assert lines[0].startswith("Table 2: Interaction task success rate in percent (higher is better)")
    assert lines[2:] == [
        "| round | 0 | 1 | 2 |",
        "|---|---|---|---|",
        "| B-FFT | 30.0 [25.0, 35.0] | 50.0 [45.0, 55.0] | 62.5 [57.5, 67.5] |",  # alone in round 2: not bold
        "| T-RL | 30.0 [25.0, 35.0] | **55.0** [50.0, 60.0] | - |",
        "| CONTROL | 30.0 [25.0, 35.0] | - | 31.0 [26.0, 36.0] |",
        "| HH | - | - | 90.0 [85.0, 95.0] |",
    ]
    assert "**7.25** [6.25, 8.25]" in markdown(TABLES[1], RESULTS)  # fewest turns


def test_the_same_as_comma_separated_values() -> None:
    header, *rows = csv.reader(io.StringIO(comma_separated(TABLES[2], RESULTS)))
    assert header == ["policy", "0", "0 low", "0 high", "1", "1 low", "1 high", "2", "2 low", "2 high"]
    assert rows[1] == ["t-rl", "0.3", "0.25", "0.35", "0.55", "0.5", "0.6", "-", "-", "-"]
    assert [row[0] for row in rows] == list(RESULTS)


def test_a_policy_that_never_clicks_has_a_dash(tmp_path: Path) -> None:
    silent = {"b-fft": {0: _figures(0.3), 1: replace(_figures(0.0), click_accuracy=None)}, "t-rl": RESULTS["t-rl"]}
    assert markdown(TABLES[2], silent).splitlines()[4:] == [
        "| B-FFT | 30.0 [25.0, 35.0] | - |",
        "| T-RL | 30.0 [25.0, 35.0] | 55.0 [50.0, 60.0] |",
    ]
    assert comma_separated(TABLES[2], silent).splitlines()[1].endswith("0.35,-,-,-")
    never = {"b-fft": {0: replace(_figures(0.0), click_accuracy=None)}}
    assert all(file.stat().st_size for file in save(figure_4(never), tmp_path / "never"))


def test_figure_4_has_every_policy_in_three_panels_and_repeats_bit_for_bit(tmp_path: Path) -> None:
    svg, png = save(figure_4(RESULTS, title="profile tiny"), tmp_path / "figure-4")
    drawn = svg.read_text()
    for text in ("B-FFT", "T-RL", "CONTROL", "HH", "games won", "turns per game", "click accuracy", "profile tiny"):
        assert text in drawn
    again, _ = save(figure_4(RESULTS, title="profile tiny"), tmp_path / "again")
    assert again.read_text() == drawn
    assert png.read_bytes().startswith(b"\x89PNG") and len(list(tmp_path.iterdir())) == 4
    panels = figure_4(RESULTS).axes
    assert len(panels) == 3
    assert [list(line.get_xdata()) for line in panels[0].lines[:2]] == [[0, 1, 2], [0, 1]]
