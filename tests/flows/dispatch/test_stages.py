"""What a variant in progress says at its end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from prefect import flow, task

from flows.dispatch import stages
from respect_core.variants import Variant
from tasks.compute.places import Place

TASKS = ("subsample_variant", "initial_adapter", "train_variant", "select_checkpoint", "train_on_pool")


@task
def fails(*arguments: Any) -> None:
    raise ValueError("no room on the disk")


@task
def succeeds(*arguments: Any) -> None:
    return None


@pytest.mark.parametrize(
    ("failing", "on"),
    [
        ("subsample_variant", Place.HERE),
        ("initial_adapter", Place.HERE),
        ("train_variant", Place.HERE),
        ("subsample_variant", Place.POOLS),
        ("train_on_pool", Place.POOLS),
    ],
)
def test_a_task_that_fails_says_why_whichever_it_is(
    failing: str, on: Place, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in TASKS:
        monkeypatch.setattr(stages, name, fails if name == failing else succeeds)

    @flow
    def learning() -> None:
        nothing: Any = None
        profile: Any = SimpleNamespace(seeds=[0])
        with pytest.raises(ValueError, match="no room on the disk"):
            stages.learn(nothing, nothing, profile, Variant.B_FFT, 0, "validation", [], on=on)()

    learning()
