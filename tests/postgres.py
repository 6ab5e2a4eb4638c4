"""A PostgreSQL server of its own for tests (Debian: apt-get install postgresql), which are skipped without one."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import pytest

USER, ACCOUNT = "respect", "postgres"
"""Who logs in; and the account of this machine that runs the server if root runs the tests, as it refuses root."""


@dataclass(frozen=True)
class Postgres:
    """A running server, which only its password opens."""

    port: int
    password: str
    programs: Path
    environment: dict[str, str]

    def url(self, driver: str, database: str) -> str:
        return f"postgresql+{driver}://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Make an empty database; return its name."""
        self.query("postgres", f'CREATE DATABASE "{database}"')
        return database

    def query(self, database: str, text: str) -> list[str]:
        """Return the lines of an answer."""
        return self.run("psql", database, "-Atqc", text).splitlines()

    def run(self, program: str, database: str, *options: str | Path) -> str:
        """Run one of PostgreSQL's programs on a database; return what it prints."""
        place = ["-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", database]
        environment = self.environment | {"PGPASSWORD": self.password}
        command = [self.programs / program, *place, *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def postgres_server(port: int) -> Iterator[Postgres]:
    """Start it in a folder of its own, which is deleted afterwards."""
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL; Debian: apt-get install postgresql")
    folder = Path(mkdtemp(prefix="respect-postgres-"))  # not pytest's, which another account cannot enter
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(folder)}
    server = Postgres(port, secrets.token_urlsafe(24), programs, environment)
    account = {"user": ACCOUNT, "group": ACCOUNT, "extra_groups": []} if os.getuid() == 0 else {}

    def run(*command: str | Path) -> None:
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, **account)  # type: ignore[call-overload]  # options that differ in type
        log = folder / "log"
        assert done.returncode == 0, done.stderr + (log.read_text() if log.exists() else "")

    data, secret = folder / "data", folder / "password"
    secret.touch(0o600)
    secret.write_text(server.password)
    if account:
        for path in (folder, secret):
            shutil.chown(path, ACCOUNT, ACCOUNT)
    try:
        run(
            programs / "initdb", "-D", data, "-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "-N"
        )
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder, "fsync": "off"}
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        # Nothing of its output: whoever reads a pipe to its end would wait for the server's end.
        run(programs / "pg_ctl", "-D", data, "-l", folder / "log", "-o", options, "-w", "-t", "60", "start")
        yield server
    finally:
        if (data / "postmaster.pid").exists():
            run(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


def _programs() -> Path | None:
    """The folder of the newest server's programs: Debian keeps them out of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    other = shutil.which("initdb")
    return found[-1].parent if found else Path(other).parent if other else None
