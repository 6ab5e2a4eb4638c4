"""Locate the embedded base model: a real Idefics2 of 3.5 million parameters, in place of the pretrained one.

`python -m respect_core.scenarios.multiref.tiny_build.build` makes it; docs/tiny-build.md says how well it works.
"""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """Return the directory of the model and its processor, for `from_pretrained`."""
    return Path(__file__).parent / "model"
