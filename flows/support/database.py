"""Keep Prefect's server from deadlocking on SQLite: it can wait a minute for a lock that it holds itself.

A failed statement stays open in the traceback of its error until the garbage collector frees it. If that happens on the
event loop, SQLite makes the loop wait for the connection, which by then may be busy in its own thread, waiting for a
lock whose holder waits for the event loop. All requests stall until that wait times out after 60 seconds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from prefect.server.database import dependencies
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.utilities.database import get_dialect
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, AsyncSessionTransaction

from flows.support.template import Interface


def configure() -> None:
    """Make Prefect's server in this process use its database this way, if it is SQLite."""
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if get_dialect(url).name == "sqlite":
        dependencies.MODELS_DEPENDENCIES["database_config"] = Configuration(connection_url=url)
        dependencies.MODELS_DEPENDENCIES["interface_class"] = Interface


class Configuration(AioSqliteConfiguration):
    """Prefect's configuration, with writers that queue, and statements that end in their connection's thread."""

    async def engine(self) -> AsyncEngine:
        engine = await super().engine()
        if not event.contains(engine.sync_engine, "do_connect", _connect):
            event.listen(engine.sync_engine, "do_connect", _connect)
        return engine

    @asynccontextmanager
    async def begin_transaction(
        self, session: AsyncSession, with_for_update: bool = False
    ) -> AsyncGenerator[AsyncSessionTransaction, None]:
        """Take the lock at the beginning: a transaction that reads first fails if another has written since."""
        async with super().begin_transaction(session, with_for_update=True) as transaction:
            yield transaction


class Cursor(sqlite3.Cursor):
    """Ends a statement that fails."""

    def execute(self, *arguments: Any) -> Cursor:
        with self._closed_on_error():
            return super().execute(*arguments)

    def executemany(self, *arguments: Any) -> Cursor:
        with self._closed_on_error():
            return super().executemany(*arguments)

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise


class Connection(sqlite3.Connection):
    def cursor(self, *arguments: Any) -> Any:
        return super().cursor(*(arguments or (Cursor,)))


def _connect(dialect: object, record: object, arguments: list[Any], keywords: dict[str, Any]) -> None:
    keywords["factory"] = Connection
