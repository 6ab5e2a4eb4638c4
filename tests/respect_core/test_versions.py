"""What cache keys are made of."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from paths import REPOSITORY

from respect_core import tiny
from respect_core.model.base import load_base
from respect_core.model.local import base_sha256
from respect_core.profiles import tiny as tiny_profile
from respect_core.scenarios.multiref.scenario import SCENARIO
from respect_core.versions import code_version, sources
from tasks.compute.specs import worker_code


def test_a_base_model_is_told_by_its_files(tmp_path: Path) -> None:
    """Wherever they lie, and as of now: a process that lives long sees that they were replaced."""
    copy = tmp_path / "base"
    shutil.copytree(tiny.path(), copy)
    assert base_sha256(str(copy)) == base_sha256("tiny") == load_base("tiny", SCENARIO, device="cpu").fingerprint
    with (copy / "config.json").open("a") as file:
        file.write("\n")
    assert base_sha256(str(copy)) not in (None, base_sha256("tiny"))


def test_a_model_of_the_hub_has_its_name_alone() -> None:
    assert base_sha256("HuggingFaceM4/idefics2-8b") is None


def test_what_decides_a_workers_result_counts_and_nothing_else() -> None:
    counted = sources("tasks.compute.worker", SCENARIO.__module__)
    assert {
        "tasks.compute.worker",
        "respect_core.learning.objectives",
        "respect_core.model.lora",
        "respect_core.scenarios.multiref.actions",
        "respect_core.scenarios.multiref.columns",
    } <= set(counted)
    assert not [
        name for name in counted if name.startswith(("respect_core.reporting", "respect_core.release", "prefect"))
    ]
    assert not [name for name in counted if name.startswith("tasks.reports")]


def test_the_version_follows_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed comment in what a worker imports is another version; in a report it is the same."""
    for name in ("respect_core", "tasks"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "model"))
    monkeypatch.setattr(
        "respect_core.versions.find_spec", lambda top: ModuleSpec(top, None, origin=_init(tmp_path, top))
    )

    def now() -> tuple[str, str]:
        code_version.cache_clear()
        return worker_code(tiny_profile()), code_version()

    first = now()
    _comment(tmp_path / "respect_core" / "reporting" / "page.py")
    second = now()
    assert second[0] == first[0] and second[1] != first[1]
    _comment(tmp_path / "tasks" / "compute" / "worker.py")
    third = now()
    assert third[0] != second[0]
    _comment(tmp_path / "respect_core" / "learning" / "objectives.py")
    assert now()[0] != third[0]
    code_version.cache_clear()


def _init(folder: Path, top: str) -> str:
    return str(folder / top / "__init__.py")


def _comment(path: Path) -> None:
    path.write_text(path.read_text() + "# changed\n")


def test_an_import_that_is_added_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that has read the source before."""
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "counted"
    package.mkdir()
    for name in ("__init__", "first", "second"):
        (package / f"{name}.py").touch()
    assert sources("counted.first").keys() == {"counted.first"}
    (package / "first.py").write_text("from counted import second\n")
    assert sources("counted.first").keys() == {"counted.first", "counted", "counted.second"}


def test_sources_may_be_asked_for_by_several_threads_at_once() -> None:
    """Python 3.11 fails where two threads parse at once, and one is interrupted in it by a collection of garbage."""
    script = """
import gc, time
from concurrent.futures import ThreadPoolExecutor
from respect_core.versions import _imports_unless_changed, sources
gc.callbacks.append(lambda *_: time.sleep(1e-5))
gc.set_threshold(50)
def parsed(_):
    _imports_unless_changed.cache_clear()
    return sources("tasks.compute.specs")
with ThreadPoolExecutor(4) as pool:
    print({len(each) for each in pool.map(parsed, range(8))})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-500:]
