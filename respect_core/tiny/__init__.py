"""The embedded base model: a real Idefics2 of a few million parameters, in the part of the pretrained model.

`python -m respect_core.scenarios.multiref.tiny_build.build` makes it; docs/tiny-build.md tells how it came out.
"""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """The directory of the model and its processor, for `from_pretrained`."""
    return Path(__file__).parent / "model"
