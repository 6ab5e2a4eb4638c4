"""Handle a moved or copied run folder: MLflow's database has absolute paths, and would write to the old place."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tasks.support.workspace import Workspace

_DATABASE, _ARTIFACTS = "mlflow.db", "/mlartifacts"


def require_in_place(workspace: Workspace) -> None:
    """Raise ValueError if the folder's MLflow database says that the run is elsewhere; the message says what to do."""
    if workspace.tracking_uri != f"sqlite:///{workspace.root / _DATABASE}":
        return  # a separate server or database, unaffected by moving the folder
    old = recorded_place(workspace.root)
    if old is not None and old != workspace.root:
        raise ValueError(
            f"{workspace.root} was moved or copied: MLflow's records in it say {old}, and what is done here would be "
            f"written there. Nothing was done. `respect relocate --run {workspace.root.name}` makes them say "
            f"{workspace.root}, and leaves {old} as it is"
        )


def recorded_place(root: Path) -> Path | None:
    """Where a run is according to the MLflow database in its folder; None if no experiment there uses local files."""
    database = root / _DATABASE
    if not database.is_file():
        return None
    found = "SELECT artifact_location FROM experiments WHERE artifact_location LIKE ? ORDER BY experiment_id DESC"
    location = None
    connection = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)
    with closing(connection), suppress(sqlite3.OperationalError):  # MLflow has not finished making the database
        location = connection.execute(found, [f"file:///%{_ARTIFACTS}"]).fetchone()
    return location and Path(unquote(urlsplit(location[0]).path).removesuffix(_ARTIFACTS))


def relocate(root: Path) -> Path | None:
    """Make the MLflow records of a moved or copied run say where it is now: all of them, or none.

    Files in the old place are neither read nor written. Prefect's history keeps old paths, which nothing follows.

    Returns:
        The old place; None if the records already say this one, or there are none.
    """
    old = recorded_place(root)
    if old is None or old == root:
        return None
    with closing(sqlite3.connect(root / _DATABASE)) as connection, connection:
        for table, column in list(_texts(connection)):
            for before, after in ((f"{old.as_uri()}/", f"{root.as_uri()}/"), (f"{old}/", f"{root}/")):
                connection.execute(
                    f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) WHERE instr("{column}", ?)',
                    (before, after, before),
                )
    return old


def _texts(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """(table, column) of every column of text."""
    for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        for _, column, kind, *_ in connection.execute(f'PRAGMA table_info("{table}")').fetchall():
            if "CHAR" in kind.upper() or "TEXT" in kind.upper():
                yield table, column
