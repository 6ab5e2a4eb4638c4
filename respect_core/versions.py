"""Which code made a thing, over which base model: recorded in manifests, and part of cache keys."""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from respect_core import tiny


@cache
def code_version() -> str:
    """Release and a hash of the library's sources, e.g. ``0.1.0+3f9c2a1b7d40``; the same with and without git."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    try:
        release = version("respect")
    except PackageNotFoundError:
        release = "0"  # run from a source tree that is not installed
    return f"{release}+{digest.hexdigest()[:12]}"


def base_sha256(base: str) -> str | None:
    """Hash of a base model's configuration, weights and processor, without loading them; None for a hub id.

    Args:
        base: "tiny" for the embedded model, a directory, or a hub id, which has only its name.
    """
    directory = tiny.path() if base == "tiny" else Path(base)
    if not directory.is_dir():
        return None
    files = sorted(path for path in directory.iterdir() if path.is_file())
    return _unchanged_hash(tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files))


def files_hash(files: list[Path]) -> str:
    """sha256 over names and contents, in the order given."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@lru_cache(maxsize=16)
def _unchanged_hash(files: tuple[tuple[Path, int, int], ...]) -> str:
    """A model of gigabytes is read once, as long as its files have the same times and sizes."""
    return files_hash([path for path, *_ in files])
