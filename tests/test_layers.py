"""Rooms stay small enough to hold in the head, and the method has few floors; `make check` holds where arrows point."""

from __future__ import annotations

import ast
import builtins
from collections import Counter
from functools import cache

import pytest
from paths import REPOSITORY

from respect_core.versions import sources

FLOORS, LINES, MODULES = 8, 400, 20
PACKAGES = ("respect_core", "tasks", "flows", "deployments")


def test_the_method_has_few_floors() -> None:
    """A package stands on those that it imports; what only types need counts too, upwards excepted."""
    rooms = {path.parent.name for path in (REPOSITORY / "respect_core").glob("*/__init__.py")}
    below = {
        room: {name.split(".")[1] for name in sources(*_modules(room)) if name.count(".") > 1} - {room}
        for room in rooms
    }

    @cache
    def floor(room: str) -> int:
        return 1 + max((floor(each) for each in below[room] & rooms if room not in below[each]), default=0)

    # The modules at the top of the package are the ground floor.
    assert 1 + max(map(floor, rooms)) <= FLOORS


def _modules(room: str) -> list[str]:
    folder = REPOSITORY / "respect_core" / room
    return [".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in folder.rglob("*.py")]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_is_long_and_no_folder_is_crowded(package: str) -> None:
    files = list((REPOSITORY / package).rglob("*.py"))
    assert files
    assert {str(file): lines for file in files if (lines := len(file.read_text().splitlines())) > LINES} == {}
    crowded = Counter(file.parent for file in files if file.name != "__init__.py")
    assert {str(folder): count for folder, count in crowded.items() if count > MODULES} == {}


def test_exceptions_have_one_base_and_end_in_error() -> None:
    """Those that never leave their module excepted: they are private."""
    bases: dict[str, set[str]] = {}
    for package in PACKAGES:
        for file in (REPOSITORY / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ClassDef):
                    bases[node.name] = {ast.unparse(each) for each in node.bases}
    builtin = {
        name for name, each in vars(builtins).items() if isinstance(each, type) and issubclass(each, BaseException)
    }
    raised = {name for name, of in bases.items() if of & builtin and not name.startswith("_")} - {"ExpectedError"}
    raised |= {name for name, of in bases.items() if any(each.endswith("Error") for each in of)} - {"ExpectedError"}
    assert raised
    assert [name for name in raised if not name.endswith("Error")] == []
    assert [
        name for name in raised if not any(each.endswith("Error") and each not in builtin for each in bases[name])
    ] == []
