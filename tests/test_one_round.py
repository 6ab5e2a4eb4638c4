"""docs/one_round.py, which tells the method in one file, runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from paths import REPOSITORY


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_one_round_runs_and_stays_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = REPOSITORY / "docs" / "one_round.py"
    assert len(source.read_text().splitlines()) <= 180
    spec = importlib.util.spec_from_file_location("one_round", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PROFILE", module.replace(module.PROFILE, seed_games=4, validation_games=4))
    before, after = module.main(4, 1, tmp_path)
    assert 0 <= before <= 1 and 0 <= after <= 1
    assert (tmp_path / "b-fft" / "history.jsonl").is_file()
