"""A run's folder that was moved or copied, with a real MLflow on SQLite."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli import main
from respect_core.model.base import adapter_hash
from tasks.registry import registry
from tasks.support.workspace import Workspace, workspace


def _register(place: Workspace, adapter: Path, round: int) -> str:
    run_id = registry.start_run(place, f"b-fft round {round}")
    tags = {"round": round, "adapter_hash": adapter_hash(adapter)}
    metrics = {"val_exact_match": 0.5}
    registry.register_adapter(place, run_id, "b-fft", adapter, tags=tags, metrics=metrics, step=round)
    registry.end_run(place, run_id)
    return f"respect.b-fft/{round}"


def _files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_copy_of_a_run_is_refused_until_its_records_say_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RESPECT_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "with a space").mkdir()
    monkeypatch.chdir(tmp_path / "with a space")
    runs, adapter = Path("runs").absolute(), tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    first = _register(workspace(runs / "old"), adapter, 1)
    shutil.copytree(runs / "old", runs / "old-copy")
    before = _files(runs / "old")

    refused = CliRunner().invoke(main.app, ["ledger", "--run", "old-copy"])
    assert refused.exit_code == 1
    assert f"records in it say {runs / 'old'}, and" in refused.stderr
    assert "`respect relocate --run old-copy`" in refused.stderr
    assert CliRunner().invoke(main.app, ["ledger", "--run", "old"]).exit_code == 0

    moved = CliRunner().invoke(main.app, ["relocate", "--run", "old-copy"])
    assert moved.exit_code == 0, moved.output
    assert CliRunner().invoke(main.app, ["ledger", "--run", "old-copy"]).exit_code == 0
    copy = workspace(runs / "old-copy")
    version = registry.named(copy, first)
    assert version.source.startswith((runs / "old-copy").as_uri())
    second = registry.named(copy, _register(copy, adapter, 2))
    assert {path: data for path, data in _files(runs / "old").items() if path.parts[0] != "prefect"} == before
    shutil.rmtree(runs / "old")
    for each in (version, second):
        assert adapter_hash(registry.download(copy, each)) == adapter_hash(adapter)
    assert "says where it is" in CliRunner().invoke(main.app, ["relocate", "--run", "old-copy"]).stdout
