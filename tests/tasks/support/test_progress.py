"""Progress of a stage in the log of its run."""

from __future__ import annotations

import logging

import pytest

from tasks.support import progress


def _stage() -> None:
    with progress.bar("decode round 3") as bar:
        for done in range(5):
            bar.update(done, 4, "b-fft")


def test_outside_of_a_run_nothing_is_written(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.Bar, "SECONDS", -1.0)
    with caplog.at_level(logging.INFO):
        _stage()
    assert not caplog.messages


@pytest.mark.parametrize(("seconds", "lines"), [(-1.0, ["0%", "25%", "50%", "75%", "100%"]), (60.0, [])])
def test_a_run_logs_its_progress_now_and_then(
    seconds: float, lines: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "get_run_logger", lambda: logging.getLogger("run"))
    monkeypatch.setattr(progress.Bar, "SECONDS", seconds)
    with caplog.at_level(logging.INFO):
        _stage()
    assert caplog.messages == [f"decode round 3 b-fft: {line}" for line in lines]


def test_a_bar_on_the_terminal_is_not_logged_too(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "get_run_logger", lambda: logging.getLogger("run"))
    monkeypatch.setattr(progress.Bar, "SECONDS", -1.0)
    with caplog.at_level(logging.INFO), progress.shown():
        _stage()
    assert not caplog.messages
