"""Arrows point down only: deployments -> flows -> tasks -> respect_core, which knows no workflow engine."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from paths import REPOSITORY

LAYERS = ["respect_core", "tasks", "flows", "deployments"]  # from the bottom
NOT_IN_THE_METHOD = {"prefect", "mlflow", "fastapi", "flask", "starlette", "typer", "ray"}


def _imported(file: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("layer", LAYERS[:3])
def test_no_layer_imports_one_above_it(layer: str) -> None:
    above = set(LAYERS[LAYERS.index(layer) + 1 :])
    files = sorted((REPOSITORY / layer).rglob("*.py"))
    assert files
    offending = {str(file.relative_to(REPOSITORY)): wrong for file in files if (wrong := _imported(file) & above)}
    assert not offending


def test_the_method_knows_no_engine_and_no_web_framework() -> None:
    files = sorted((REPOSITORY / "respect_core").rglob("*.py"))
    offending = {
        str(file.relative_to(REPOSITORY)): wrong for file in files if (wrong := _imported(file) & NOT_IN_THE_METHOD)
    }
    assert not offending
