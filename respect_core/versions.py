"""Which code made a thing: recorded in manifests, and part of cache keys."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


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
