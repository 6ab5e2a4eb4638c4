"""Where decoding and training run."""

from __future__ import annotations

import sys

import pytest

from tasks.compute import process
from tasks.compute.places import Place, RayMissingError, require, runner


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # what is not installed
    monkeypatch.delitem(sys.modules, "tasks.compute.on_ray", raising=False)


def test_without_ray_the_remedy_is_said(no_ray: None) -> None:
    with pytest.raises(RayMissingError, match=r"pip install .*\[ray\]"):
        require(Place.RAY)


def test_work_for_ray_is_refused_without_it_and_only_that(no_ray: None) -> None:
    with pytest.raises(RayMissingError, match=r"pip install .*\[ray\]"):
        runner(Place.RAY)
    assert runner(Place.HERE) is runner(Place.POOLS) is process.run
