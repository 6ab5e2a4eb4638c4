"""Run the whole command for a GPU with a tiny model on the CPU, and check what it imports, prints and writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from paths import REPOSITORY

from tests.bench.gpu import command, phases, shape
from tests.bench.gpu.measure import Bench

ABSENT = ("pydantic", "pydantic_settings", "shapely", "prefect", "mlflow", "trl", "datasets", "duckdb", "boto3")
"""Packages that a lent machine lacks."""
CASES = {
    *("gpu-product", "gpu-agreement", "gpu-vision", "gpu-decode-256", "gpu-act", "gpu-validation"),
    *("gpu-fft", "gpu-rl", "gpu-kto"),
}


@pytest.mark.heavy
def test_the_command_writes_every_record_without_what_the_machine_lacks(tmp_path: Path) -> None:
    hidden = f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r}))"  # None: the import fails
    code = f"{hidden}; from tests.bench.gpu.command import main; sys.exit(main(['--toy', '--out', {str(tmp_path)!r}]))"
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "skipped, not installed here: trl, datasets" in run.stdout
    records = {record["case"]: record for record in json.loads((tmp_path / "gpu.json").read_text())}
    assert records.keys() == CASES
    for name, record in records.items():
        assert record["ours"] > 0 and record["size"] and record["versions"]["torch"], name
        if name not in ("gpu-product", "gpu-agreement", "gpu-vision"):
            assert record["tokens_per_second"] > 0 and record["utilisation"] > 0, name
    assert records["gpu-act"]["ratio"] > 0
    assert "bfloat16 gradient" in records["gpu-agreement"]["equality"]


def test_a_phase_without_time_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(torch.device("cpu"), seconds=0.0)
    assert command.run(bench, shape.TOY, phases.TOY, tmp_path) == []
    said = capsys.readouterr().out
    assert "agreement: left out, for want of time" in said
    assert not (tmp_path / "gpu.json").exists()


def test_pieces_end_with_the_time() -> None:
    bench = Bench(torch.device("cpu"), seconds=100.0)
    assert list(bench.pieces(3, seconds=50.0)) == [0, 1, 2]
    assert list(bench.pieces(3, seconds=0.0)) == [0]


def test_the_shape_is_that_of_idefics2_8b() -> None:
    base, _ = shape.build(shape.Shape(), torch.device("meta"), torch.bfloat16)
    parameters = sum(parameter.numel() for parameter in base.model.parameters())
    assert 8.3e9 < parameters < 8.5e9
