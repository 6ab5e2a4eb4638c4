"""docs/paper-index.md names functions and tests that exist."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest
from paths import REPOSITORY

NAMED = sorted(set(re.findall(r"`([\w./]+(?:::\w+|\.\w+))`", (REPOSITORY / "docs" / "paper-index.md").read_text())))


@lru_cache
def _defined(path: Path) -> set[str]:
    """Functions and classes at the top of a module."""
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("name", [name for name in NAMED if not name.endswith(".py")])
def test_exists(name: str) -> None:
    if "::" in name:
        file, _, function = name.partition("::")
        path = REPOSITORY / file
    else:
        module, _, function = name.rpartition(".")
        path = REPOSITORY / "respect_core" / f"{module.replace('.', '/')}.py"
    assert path.is_file(), f"{path} is named in docs/paper-index.md and does not exist"
    assert function in _defined(path)
