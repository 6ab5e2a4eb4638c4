"""What the gate promises, by simulation with the gate: few runs here, `respect gate-power` makes more."""

from __future__ import annotations

import json
from math import comb
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli import main
from respect_core.release import gate_power
from respect_core.release.gate import GateConfig, gate

RUNS = 150


def _at_most(share: float, runs: int) -> float:
    """The share of runs that a policy of that probability exceeds once in ten thousand times, by the binomial."""
    left = 1.0
    for passed in range(runs + 1):
        left -= comb(runs, passed) * share**passed * (1 - share) ** (runs - passed)
        if left < 1e-4:
            return passed / runs
    raise AssertionError


@pytest.mark.parametrize("profile", ["tiny", "chat"])
@pytest.mark.parametrize("look", [1, 10])
def test_what_is_worse_is_refused_and_what_is_better_promoted(profile: str, look: int) -> None:
    config = gate(profile)
    worse = gate_power.row(config, -0.03, RUNS, look=look)
    assert worse["promoted"] <= _at_most(0.025, RUNS) and worse["games"] == config.asked(look)
    assert 1 - gate_power.row(config, 0.05, RUNS, look=look)["promoted"] <= _at_most(0.2, RUNS)


def test_the_margin_is_where_the_error_rate_is_spent() -> None:
    """A policy truly two points worse passes a first look in 2.5% of all cases; one as good passes far more often."""
    margin = gate_power.row(GateConfig(), -0.02, 400)["promoted"]
    assert margin <= _at_most(0.025, 400)
    assert gate_power.row(GateConfig(), 0.0, RUNS)["promoted"] > margin
    assert gate_power.row(GateConfig(), 0.03, RUNS)["promoted"] > 0.6


def test_bad_rounds_do_not_add_up() -> None:
    """At a margin of six points a step of two mostly passes: it is the anchors that hold it, not chance."""
    loose = GateConfig(margin=0.06, games=400)
    ends = [gate_power.ratchet(loose, seed) for seed in range(8)]
    assert min(ends) >= -0.08 and min(ends) < 0
    assert gate_power.summary(loose, [0.0, -0.02, -0.04, -0.02])["below_3"] == 0.25


def test_the_command_writes_rows(tmp_path: Path) -> None:
    file = tmp_path / "power.json"
    result = CliRunner().invoke(main.app, ["gate-power", "--runs", "10", "--games", "40", "--json", str(file)])
    assert result.exit_code == 0, result.output
    found = json.loads(file.read_text())
    assert [each["effect"] for each in found["rows"]] == list(gate_power.EFFECTS)
    assert all(each["games"] == 40 and 0 <= each["promoted"] <= 1 for each in found["rows"])
    assert found["ratchet"]["rounds"] == 10 and found["ratchet"]["lowest"] <= 0
    assert "10 rounds whose candidates are truly -2%" in " ".join(result.output.split())
