"""What cache keys are made of."""

from __future__ import annotations

import shutil
from pathlib import Path

from respect_core import tiny
from respect_core.model.base import load_base
from respect_core.scenarios.multiref.scenario import SCENARIO
from respect_core.versions import base_sha256


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
