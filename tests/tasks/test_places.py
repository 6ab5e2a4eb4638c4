"""Where decoding and training run."""

from __future__ import annotations

import sys

import pytest

from tasks.places import RayMissing, require_ray


def test_without_ray_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # what is not installed
    with pytest.raises(RayMissing, match=r"pip install .*\[ray\]"):
        require_ray()
