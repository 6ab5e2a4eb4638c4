"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Write a text file; a reader finds the one before or this one, never half of it."""
    unfinished = file.with_name(f"{file.name}.tmp")
    unfinished.write_text(text)
    unfinished.replace(file)
