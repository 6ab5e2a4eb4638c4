"""`respect play --study` as the operator starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(600)
STUDY = '{"name": "pilot", "round": 0, "policies": {"hh": 1}, "contexts": {"games": 1, "seed": "pilot"}}'


@pytest.mark.parametrize(("key", "warned"), [({}, True), ({"RESPECT_USER_KEY": "5" * 64}, False)])
def test_a_study_under_the_public_key_of_pseudonyms_is_warned_of(
    tmp_path: Path, key: Mapping[str, str], warned: bool
) -> None:
    (tmp_path / "study.json").write_text(STUDY)
    environment = {name: value for name, value in os.environ.items() if name != "RESPECT_USER_KEY"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[3]), **key}
    command = [sys.executable, "-m", "deployments.game", "--study", "study.json", "--no-prepare", "--port", "0"]
    server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        said = ""
        while "Play at" not in said and (line := server.stdout.readline()):
            said += line
        assert "Play at" in said
        assert ("RESPECT_USER_KEY=$(openssl rand -hex 32)" in said) == warned
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
