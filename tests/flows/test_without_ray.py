"""Rounds that are to run on Ray, where it is not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from samples import game, with_images

from flows.entrypoints import next_round
from flows.parameters import NextRoundParameters, RoundParameters
from flows.round import round
from respect_core.log.log import append_logs
from tasks.compute.places import Place, RayMissingError
from tasks.support.workspace import Workspace, from_environment


def _form(place: Workspace) -> None:
    next_round.fn(NextRoundParameters(number=5, minimum=1, on="ray"))


def _flow(place: Workspace) -> None:
    round.fn(place, RoundParameters(round=5), on=Place.RAY)


@pytest.mark.parametrize("begin", [_form, _flow])
def test_it_is_said_before_anything_is_done(
    begin: Callable[[Workspace], None], prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESPECT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("RESPECT_ROOT", str(tmp_path / "root"))
    place = from_environment()
    append_logs(with_images(place.open()), [game()])
    before = sorted(place.open().keys(""))
    monkeypatch.setitem(sys.modules, "ray", None)  # what is not installed
    with pytest.raises(RayMissingError, match=r"pip install .*\[ray\]"):
        begin(place)
    assert sorted(place.open().keys("")) == before
