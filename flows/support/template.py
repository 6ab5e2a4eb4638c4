"""Give a new SQLite database Prefect's tables at once, from a file in the cache, in place of its hundred migrations."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from asyncio import to_thread
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import prefect
from prefect.server.database.interface import PrefectDBInterface
from sqlalchemy.engine import make_url

from respect_core.model.local import cache_root
from tasks.support.files import passing

_VERSION = "alembic_version"
_log = logging.getLogger(__name__)


class Interface(PrefectDBInterface):
    """Prefect's interface to its database. The migrations run in any case: after a copy, they find nothing to do."""

    async def create_db(self) -> None:
        """Create the database, and keep the tables of a new one for the next."""
        name = make_url(self.database_config.connection_url).database
        new = Path(name) if name and ":memory:" not in name and not Path(name).exists() else None
        copied = new is not None and await to_thread(_try, copy, new)
        await super().create_db()
        if new and not copied:
            await to_thread(_try, keep, new)


def template() -> Path:
    """Return where the tables of this version of Prefect are kept, once a database was made with it."""
    return cache_root() / "prefect" / f"{prefect.__version__}.db"


def copy(database: Path) -> bool:
    """Copy the template to where no database is; return False if there is no template, or it is damaged or in use."""
    if not template().exists() or not _has_only_tables(template()):
        return False
    with passing(database.parent, ".database-") as folder:
        shutil.copyfile(template(), folder / database.name)
        with suppress(FileExistsError):  # another server was faster
            os.link(folder / database.name, database)
    return True


def keep(database: Path) -> bool:
    """Make the template from a database that has tables and, so far, nothing in them."""
    with passing(template().parent, ".template-") as folder:
        with closing(sqlite3.connect(database)) as made:
            made.execute("VACUUM INTO ?", [str(folder / "kept")])
        if not _has_only_tables(folder / "kept"):  # another server has begun to work with it
            return False
        (folder / "kept").replace(template())
    return True


def _has_only_tables(database: Path) -> bool:
    """Return whether it is whole, its migrations are done, and no run has left anything there."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as read:
        tables = [name for (name,) in read.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        filled = [name for name in tables if read.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()]
        return filled == [_VERSION] and read.execute("PRAGMA quick_check").fetchall() == [("ok",)]


def _try(do: Callable[[Path], bool], database: Path) -> bool:
    """Return whether it was done. Without it the migrations do the work, so a failure is only logged."""
    try:
        return do(database)
    except (OSError, sqlite3.Error) as error:
        _log.info("no use of %s: %s", template(), error)
        return False
