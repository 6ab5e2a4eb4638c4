"""`respect play --study` as the operator starts it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from forked import Forked

pytestmark = pytest.mark.timeout(600)
STUDY = '{"name": "pilot", "round": 0, "policies": {"hh": 1}, "contexts": {"games": 1, "seed": "pilot"}}'


def _play(folder: Path, key: str | None) -> tuple[str, int]:
    """What the command says until it plays or ends, and its exit status where it ended by itself, else 0."""
    (folder / "study.json").write_text(STUDY)
    environment = {name: value for name, value in os.environ.items() if name != "RESPECT_USER_KEY"}
    environment |= {"RESPECT_USER_KEY": key} if key else {}
    command = [sys.executable, "-m", "deployments.game", "--study", "study.json", "--no-prepare", "--port", "0"]
    log = folder / "log"
    with log.open("w") as errors:
        server = Forked(command, cwd=folder, env=environment, stderr=errors)
    try:
        said = ""
        while "Play at" not in said and (line := server.stdout.readline()):
            said += line
        return said + log.read_text(), 0 if "Play at" in said else server.wait(60)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def test_a_study_under_the_public_key_is_warned_of_and_another_key_than_before_refused(tmp_path: Path) -> None:
    said, status = _play(tmp_path, None)
    assert "RESPECT_USER_KEY=$(openssl rand -hex 32)" in said and status == 0
    said, status = _play(tmp_path, "5" * 64)  # before any participant has come
    assert "RESPECT_USER_KEY" not in said and status == 0
    said, status = _play(tmp_path, None)
    assert "error:" in said and "RESPECT_USER_KEY is not set" in said and "Traceback" not in said and status == 1
