"""Identify the code and the base model behind a result, for manifests and cache keys."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

_PRODUCT = ("respect_core", "tasks")
"""Packages whose code decides results."""


@cache
def code_version(*roots: str) -> str:
    """Return release and a hash of sources, e.g. ``0.1.0+3f9c2a1b7d40``; the same with and without git.

    Args:
        roots: modules whose sources count, with all of the product that they import; by default all of its sources.
    """
    digest = hashlib.sha256()
    for name, path in sorted(sources(*roots).items()):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    try:
        release = version("respect")
    except PackageNotFoundError:
        release = "0"  # run from a source tree that is not installed
    return f"{release}+{digest.hexdigest()[:12]}"


def json_hash(value: Any) -> str:
    """Return the sha256 of a value that JSON can represent; the order of a dictionary's keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sources(*roots: str) -> dict[str, Path]:
    """Return the product's modules that `roots` import, directly or not, and `roots` themselves; all without roots."""
    if not roots:
        folders = [path for name in _PRODUCT if (path := _source(name)) is not None]
        files = {file: file.relative_to(path.parents[1]) for path in folders for file in path.parent.rglob("*.py")}
        return {place.as_posix(): file for file, place in files.items()}
    modules: dict[str, Path] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in modules and (path := _source(name)) is not None:
            modules[name] = path
            tops = {*_PRODUCT, *(root.partition(".")[0] for root in roots)}
            waiting += [imported for imported in _imports(path) if imported.partition(".")[0] in tops]
    return modules


def _source(module: str) -> Path | None:
    """Return the path of a module's source; None for a name that is not a module, such as a function's."""
    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        return None
    base = Path(spec.origin).parent.joinpath(*rest)
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


_parsing = Lock()
"""Held while a source is parsed: Python 3.11 counts the depth of all threads' trees in one place, and fails where they
take turns (SystemError: AST constructor recursion depth mismatch)."""


def _imports(path: Path) -> tuple[str, ...]:
    """Return the names that a source imports, anywhere in it: modules, and what may be a module of a package."""
    return _imports_unless_changed((path, path.stat().st_mtime_ns, path.stat().st_size))


@cache
def _imports_unless_changed(file: tuple[Path, int, int]) -> tuple[str, ...]:
    path, *_ = file
    with _parsing:
        tree = ast.parse(path.read_bytes())
    return tuple(_imported(tree))


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_hash(files: list[Path], folder: Path | None = None) -> str:
    """Return the sha256 of the files' names, or of their paths in a folder, and of their contents, in this order."""
    digest = hashlib.sha256()
    for path in files:
        digest.update((path.relative_to(folder).as_posix() if folder else path.name).encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def hash_unless_changed(files: list[Path]) -> str:
    """Hash files as `files_hash` does, once as long as their times and sizes stay the same: a model has gigabytes."""
    return _hash_unless_changed(tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files))


@lru_cache(maxsize=16)
def _hash_unless_changed(files: tuple[tuple[Path, int, int], ...]) -> str:
    return files_hash([path for path, *_ in files])
