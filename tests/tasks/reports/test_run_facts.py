"""What a run was, from its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.reports.run_facts import facts, systems


def test_a_study(tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    parameters = {"study_seed": 3, "games": 200, "rounds": 1, "variants": ["b-fft", "t-rl"]}
    profile = {"name": "tiny", "base": "tiny", "seeds": [3]}
    (study / "study.json").write_text(json.dumps({"parameters": parameters, "profile": profile}))
    for number, version in ((0, "a"), (1, "b")):
        record = {"attempts": [version, "a"], "seconds": {"total": 120.0}}
        (study / f"round-{number}.json").write_text(json.dumps(record))
    assert systems(tmp_path) == ["b-fft", "t-rl"]
    assert facts(tmp_path) == {
        "Profile": "tiny",
        "Study": "seed 3, 200 games of every policy in a round, 1 rounds of learning",
        "Base model": "tiny",
        "Training seeds": "3",
        "Code": "a, b",
        "Time": "4 minutes",
    }


def test_a_round_and_a_run_that_says_nothing(tmp_path: Path) -> None:
    assert (facts(tmp_path), systems(tmp_path)) == ({}, [])
    (tmp_path / "summary.json").write_text('{"profile": "idefics2-8b"}')
    assert facts(tmp_path) == {"Profile": "idefics2-8b"}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json: not JSON .*; restore the file, or move it away"):
        facts(tmp_path)
