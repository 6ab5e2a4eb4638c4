"""Progress of a stage as an artifact of its task run."""

from __future__ import annotations

import pytest

from tasks.support import progress


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """What would go to the server."""
    found: list[tuple[str, float]] = []
    monkeypatch.setattr(
        progress, "create_progress_artifact", lambda percent, key, description: found.append((key, percent)) or "id"
    )
    monkeypatch.setattr(
        progress, "update_progress_artifact", lambda artifact, percent: found.append((artifact, percent))
    )
    return found


def _stage() -> None:
    with progress.bar("decode round 3, b-fft") as bar:
        for done in range(1, 5):
            bar.update(done, 4)


def test_outside_of_a_task_nothing_is_written(written: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESPECT_PROGRESS", "artifacts")
    _stage()
    assert not written


def test_few_artifacts_are_written_and_the_last_says_100(
    written: list[tuple[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.Artifact, "wanted", staticmethod(lambda: True))
    _stage()
    assert written[0] == ("decode-round-3-b-fft", 25.0)
    assert written[-1] == ("id", 100.0)
    assert len(written) == 3  # the first, 100 by the stage itself, and its end: no more often than EVERY_SECONDS
