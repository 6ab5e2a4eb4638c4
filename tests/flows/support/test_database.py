"""Prefect's server and its SQLite: a failed statement holds up nobody, and no writer fails because it read first."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite
import pytest
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from flows.support.database import Configuration

TABLE = text("CREATE TABLE t (x INTEGER)")
INSERT = text("INSERT INTO t VALUES (1)")
COUNT = text("SELECT count(*) FROM t")


@asynccontextmanager
async def _engine(configuration: AioSqliteConfiguration) -> AsyncIterator[AsyncEngine]:
    engine = await configuration.engine()
    async with engine.connect() as connection:
        await connection.execute(TABLE)
    try:
        yield engine
    finally:
        await engine.dispose()


def test_writers_that_read_first_take_turns(tmp_path: Path) -> None:
    configuration = Configuration(connection_url=f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}")

    async def count() -> int:
        async with _engine(configuration) as engine:

            async def read_and_write() -> None:
                session = await configuration.session(engine)
                async with session, configuration.begin_transaction(session):
                    await session.execute(COUNT)
                    await asyncio.sleep(0.1)
                    await session.execute(INSERT)

            await asyncio.gather(*(read_and_write() for _ in range(4)))
            async with engine.connect() as connection:
                return int((await connection.execute(COUNT)).scalar_one())

    assert asyncio.run(count()) == 4


def test_a_failed_statement_holds_up_nobody(tmp_path: Path) -> None:
    """Its connection is at a lock when the event loop drops it."""
    file = tmp_path / "prefect.db"

    async def stall() -> float:
        configuration = Configuration(connection_url=f"sqlite+aiosqlite:///{file}")
        async with _engine(configuration) as engine, engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            assert isinstance(driver, aiosqlite.Connection)
            other = sqlite3.connect(file, isolation_level=None)
            await driver.execute("PRAGMA busy_timeout = 0")
            other.execute("BEGIN IMMEDIATE")
            gc.freeze()  # what other tests left would be collected with it
            failed = await driver.cursor()
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                await failed.execute(INSERT.text)
            await driver.execute("PRAGMA busy_timeout = 60000")
            waiting = asyncio.create_task(driver.execute(INSERT.text))
            await asyncio.sleep(0.3)
            began = time.monotonic()
            del failed
            gc.collect()  # its error's traceback has it too
            seconds = time.monotonic() - began
            gc.unfreeze()
            other.close()
            await asyncio.wait([waiting])
            return seconds

    assert asyncio.run(stall()) < 20
