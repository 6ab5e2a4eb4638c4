"""Figures 4 to 7, 14 and 15."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from matplotlib.figure import Figure
from reports import figures

from respect_core.measuring.cell import Decoded, PolicyRound
from respect_core.measuring.decoder_metrics import confusion
from respect_core.measuring.evidence import Cells
from respect_core.measuring.metrics import Estimate
from respect_core.measuring.turn_metrics import TurnFigures
from respect_core.reporting.figures.confusions import figure_6
from respect_core.reporting.figures.curves import figure_4, figure_5, figure_7, figure_14, figure_15
from respect_core.reporting.figures.style import save, style

RESULTS: Cells = {
    policy: {number: PolicyRound(figures(success)) for number, success in by_round.items()}
    for policy, by_round in {
        "b-fft": {0: 0.3, 1: 0.5, 2: 0.625},
        "t-rl": {0: 0.3, 1: 0.55},
        "control": {0: 0.3, 2: 0.31},
        "hh": {2: 0.9},
    }.items()
}


def _texts(figure: Figure | None) -> list[str]:
    assert figure is not None
    svg = BytesIO()
    with style():
        figure.savefig(svg, format="svg")
    tree = ElementTree.fromstring(svg.getvalue())
    return ["".join(each.itertext()) for each in tree.iter() if each.tag.endswith("text")]


def test_figure_4_has_every_policy_in_three_panels_and_repeats_bit_for_bit(tmp_path: Path) -> None:
    drawn = figure_4(RESULTS, title="profile tiny")
    again = figure_4(RESULTS, title="profile tiny")
    assert drawn is not None and again is not None
    svg, png = save(drawn, tmp_path / "figure-4")
    text = svg.read_text()
    for expected in ("B-FFT", "T-RL", "CONTROL", "HH", "games won", "turns per game", "click accuracy", "profile tiny"):
        assert expected in text
    assert save(again, tmp_path / "again")[0].read_text() == text
    assert png.read_bytes().startswith(b"\x89PNG") and len(list(tmp_path.iterdir())) == 4
    assert [list(line.get_xdata()) for line in drawn.axes[0].lines[:2]] == [[0, 1, 2], [0, 1]]
    assert len(drawn.axes) == 3


def test_a_policy_that_never_clicks_is_drawn_as_far_as_it_goes() -> None:
    never = {"b-fft": {0: PolicyRound(replace(figures(0.0), click_accuracy=None))}}
    drawn = figure_4(never)
    assert drawn is not None and [len(axes.lines) > 0 for axes in drawn.axes] == [True, True, False]


def test_nothing_is_drawn_of_nothing() -> None:
    empty = {"b-fft": {0: PolicyRound()}}
    assert [figure_4(empty), figure_5(empty), figure_6(empty), figure_7(empty), figure_14({}), figure_15(empty)] == [
        None
    ] * 6


def test_figure_5_tells_feedback_apart() -> None:
    def of(share: float) -> PolicyRound:
        whole, part = Estimate(share, share, share), Estimate(-0.2, -0.3, -0.1)
        return PolicyRound(turn_figures=TurnFigures(9, whole, whole, part, whole))

    drawn = figure_5({"b-fft": {0: of(0.3), 1: of(0.5)}, "t-fft": {0: PolicyRound()}, "hh": {1: of(0.8)}})
    assert {"exact match", "positive feedback", "B-FFT, NEG FB"} <= set(_texts(drawn))
    assert drawn is not None and drawn.axes[1].get_ylim()[0] < -0.3  # equation 3 goes below nothing


def test_figure_6_says_which_labels_it_is_against() -> None:
    actual, said = [1, 1, 0, -1], [1, -1, 1, -1]
    matrix = confusion(actual, said, "binary")
    by_targets = PolicyRound(decoded={"binary": Decoded(2, 0, 2, "targets", matrix)})
    by_people = PolicyRound(decoded={"binary": Decoded(2, 0, 2, "annotations", matrix)})
    assert {"binary, round 0", "partly right", "0.25", "-"} <= set(_texts(figure_6({"b-fft": {0: by_targets}})))
    assert {"not satisfied", "satisfied"} <= set(_texts(figure_6({"b-fft": {0: by_people}})))
    (axes,) = figure_6({"b-fft": {0: by_targets}}).axes  # type: ignore[union-attr]
    shown = np.ma.filled(axes.collections[0].get_array(), np.nan)
    np.testing.assert_allclose(shown, [[0.25, np.nan, 0], [0, np.nan, 0.25], [0.25, np.nan, 0.25]])


def test_figures_14_and_15() -> None:
    drawn = figure_14({"b-fft": {0: 300, 1: 630}, "t-rl": {0: 300}})
    assert drawn is not None and list(drawn.axes[0].lines[0].get_ydata()) == [300, 630]
    assert figure_15(RESULTS) is None
    both = figure_15({**RESULTS, "b-fft+": {2: PolicyRound(figures(0.7))}})
    assert set(_texts(both)) >= {"B-FFT", "B-FFT+"} and "T-RL" not in _texts(both)
