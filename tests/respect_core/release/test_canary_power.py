"""The command that simulates canaries, with the shipped test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli import main
from respect_core.release import canary_power


def test_the_command_writes_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary_power, "EFFECTS", (-0.2, 0.0))
    monkeypatch.setattr(canary_power, "LOOKS", 20)
    file = tmp_path / "power.json"
    result = CliRunner().invoke(main.app, ["gate-power", "--canary", "50%", "--runs", "10", "--json", str(file)])
    assert result.exit_code == 0, result.output
    found = json.loads(file.read_text())
    worse, equal = found["rows"]
    assert (worse["effect"], worse["rolled_back"], worse["promoted"]) == (-0.2, 1.0, 0.0)
    assert equal["promoted"] + equal["rolled_back"] + equal["undecided"] == pytest.approx(1.0)
    assert worse["candidate_conversations_p95"] < worse["conversations_p95"] <= found["most"]
    assert found["turning"]["turns"] == found["finds_harm"] and found["turning"]["promoted"] == 0.0
    assert "truly -20%: promoted 0.0%, rolled back 100.0%" in " ".join(result.output.split())


def test_a_share_is_named_as_a_percentage_or_a_number() -> None:
    for wrong in ("0%", "100%", "ten", "1.5"):
        result = CliRunner().invoke(main.app, ["gate-power", "--canary", wrong])
        assert result.exit_code == 1 and "write it as 10% or 0.1" in " ".join(result.output.split())
