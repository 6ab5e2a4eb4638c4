"""What a command sets up before Prefect and MLflow are imported."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from paths import REPOSITORY

_COMMAND = """
import os
from pathlib import Path
from flows.support import environment
environment.prepare(Path("runs/r"))
Path("runs/r/spec.json").write_text("")
print(os.environ.get("PREFECT_SERVER_API_AUTH_STRING"), os.environ.get("PREFECT_API_AUTH_STRING"))
"""


def _prepared(folder: Path, **given: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PYTHONPATH": str(REPOSITORY), **given}
    command = [sys.executable, "-c", f"import os; os.umask(0o022){_COMMAND}"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_what_is_written_is_its_owners_alone(tmp_path: Path) -> None:
    _prepared(tmp_path)
    modes = {stat.S_IMODE(each.stat().st_mode) for each in (tmp_path / "runs").rglob("*")}
    assert modes == {0o700, 0o600}


def test_a_server_that_prefect_starts_asks_for_a_login_that_only_this_process_knows(tmp_path: Path) -> None:
    server, client = _prepared(tmp_path)
    assert server == client and server.startswith("respect:") and len(server) > 30
    assert _prepared(tmp_path)[0] != server


@pytest.mark.parametrize("by_profile", [False, True])
def test_somebody_elses_server_keeps_its_own_login(tmp_path: Path, by_profile: bool) -> None:
    given = {"PREFECT_API_URL": "https://prefect.example/api"}
    if by_profile:
        (tmp_path / "profiles.toml").write_text('[profiles.mine]\nPREFECT_API_URL = "https://prefect.example/api"\n')
        given = {"PREFECT_HOME": str(tmp_path)}
    assert _prepared(tmp_path, **given) == ["None", "None"]
    assert _prepared(tmp_path, PREFECT_API_AUTH_STRING="u:p", **given) == ["None", "u:p"]
