"""What does not fit into memory is tried in smaller pieces, on a CPU as on an accelerator."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from respect_core.model.memory import fitting, no_room

HUGE = 1 << 55  # elements: beyond any address space


def _torch(size: int) -> object:
    return torch.empty(HUGE, dtype=torch.uint8) if size > 2 else size


def _numpy(size: int) -> object:
    return np.empty(HUGE, dtype=np.uint8) if size > 2 else size


@pytest.mark.parametrize("work", [_torch, _numpy])
def test_memory_that_the_system_refuses_halves_the_work(work: object, caplog: pytest.LogCaptureFixture) -> None:
    assert fitting(work, 8, "games") == (2, 2)  # type: ignore[arg-type]  # either of the two above
    assert "continuing with 4 games" in caplog.text and "continuing with 2 games" in caplog.text


def test_what_never_fits_raises_what_the_system_said() -> None:
    with pytest.raises(RuntimeError, match="allocate memory") as failed:
        fitting(lambda _: torch.empty(HUGE, dtype=torch.uint8), 8, "games")
    assert no_room(failed.value)


def test_another_error_is_not_tried_again() -> None:
    tried = []

    def work(size: int) -> None:
        tried.append(size)
        torch.ones(2) @ torch.ones(3)

    with pytest.raises(RuntimeError, match="size"):
        fitting(work, 8, "games")
    assert tried == [8]
