"""New databases get Prefect's tables from a template; it holds nothing else, and whatever ails it, migrations do."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from prefect.server.database.interface import PrefectDBInterface
from prefect.server.database.orm_models import AioSqliteORMConfiguration
from prefect.server.database.query_components import AioSqliteQueryComponents

from flows.support import template
from flows.support.database import Configuration

TABLES = "CREATE TABLE alembic_version (v); INSERT INTO alembic_version VALUES (1); CREATE TABLE flow_run (name)"
CREATE = """
import asyncio
from flows.support import database
database.configure()
from prefect.server.database import provide_database_interface
asyncio.run(provide_database_interface().create_db())
"""
Migrated = list[Path]


@pytest.fixture
def migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Migrated:
    """The databases on which migrations had something to do."""
    monkeypatch.setenv("RESPECT_CACHE", str(tmp_path / "cache"))
    done: Migrated = []

    async def migrate(interface: PrefectDBInterface) -> None:
        database = Path(interface.database_config.connection_url.partition("///")[2])
        with closing(sqlite3.connect(database)) as opened:
            if not opened.execute("SELECT 1 FROM sqlite_master").fetchone():
                opened.executescript(TABLES)
                done.append(database)

    monkeypatch.setattr(PrefectDBInterface, "create_db", migrate)
    return done


def _create(database: Path) -> list[str]:
    """Create a database as a server does; return its tables."""
    configuration = Configuration(connection_url=f"sqlite+aiosqlite:///{database}")
    interface = template.Interface(
        database_config=configuration, query_components=AioSqliteQueryComponents(), orm=AioSqliteORMConfiguration()
    )
    asyncio.run(interface.create_db())
    with closing(sqlite3.connect(database)) as opened:
        return [name for (name,) in opened.execute("SELECT name FROM sqlite_master")]


def test_only_the_first_database_is_migrated(tmp_path: Path, migrated: Migrated) -> None:
    first, second = tmp_path / "first.db", tmp_path / "second.db"
    assert _create(first) == _create(second)
    assert migrated == [first]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "first.db", "second.db"]


def test_a_damaged_template_is_replaced(tmp_path: Path, migrated: Migrated) -> None:
    _create(tmp_path / "first.db")
    template.template().write_bytes(template.template().read_bytes()[:5000])
    _create(tmp_path / "second.db")
    _create(tmp_path / "third.db")
    assert [each.name for each in migrated] == ["first.db", "second.db"]


def test_nothing_of_a_run_enters_the_template(tmp_path: Path, migrated: Migrated) -> None:
    """Two servers may start on one database, and the faster one then works with it already."""
    busy = tmp_path / "busy.db"
    with closing(sqlite3.connect(busy)) as opened:
        opened.executescript(f"{TABLES}; INSERT INTO flow_run VALUES ('private')")
    assert not template.keep(busy)
    assert not template.template().exists()


def test_a_database_that_is_there_stays(tmp_path: Path, migrated: Migrated) -> None:
    _create(tmp_path / "first.db")
    (tmp_path / "second.db").touch()
    assert template.copy(tmp_path / "second.db")
    assert not (tmp_path / "second.db").read_bytes()


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, migrated: Migrated, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESPECT_CACHE", str(tmp_path / "file"))
    assert _create(tmp_path / "first.db") == _create(tmp_path / "second.db")
    assert len(migrated) == 2


@pytest.mark.heavy
def test_a_copy_has_what_prefects_migrations_make(tmp_path: Path) -> None:
    schemas = []
    for name in ("migrated", "copied"):
        url = f"sqlite+aiosqlite:///{tmp_path / name}.db"
        own = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": url, "RESPECT_CACHE": str(tmp_path / "cache")}
        homes = {"PREFECT_HOME": str(tmp_path / "home")}
        subprocess.run([sys.executable, "-c", CREATE], check=True, env={**os.environ, **own, **homes}, timeout=180)
        with closing(sqlite3.connect(tmp_path / f"{name}.db")) as made:
            schemas.append(made.execute("SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2").fetchall())
            schemas.append(made.execute("SELECT * FROM alembic_version").fetchall())
    assert schemas[:2] == schemas[2:]
    assert len(schemas[0]) > 100
    assert len(list((tmp_path / "cache/prefect").glob("*.db"))) == 1
