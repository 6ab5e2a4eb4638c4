"""Which device a worker process is given."""

from __future__ import annotations

import pytest
import torch

from tasks.compute import process


@pytest.mark.parametrize(("visible", "given"), [(None, ["0", "1"]), ("3,5", ["3", "5"])])
def test_devices_are_those_that_this_process_may_use(
    visible: str | None, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(process, "parallel_workers", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with process._slots.__wrapped__().taken(2) as slots:
        assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == given
