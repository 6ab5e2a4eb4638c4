"""Back up a run's store, ledger and registry so that they fit each other, and restore them to a new run.

A backup is one tar file: what this machine has not stored yet (the game's journal, logs of servers), then the store,
then MLflow's database, then MLflow's files, in this order. Whatever an earlier part names is then in a later one, while
games, promotions and registrations continue. Its last member, `backup.json`, has the hash of every other.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from respect_core.acting.served_turns import SERVED
from respect_core.errors import ExpectedError
from respect_core.log.served_chats import SERVED_CHATS
from respect_core.release import ledger
from respect_core.store.base import SCRATCH, MissingKeyError, Store
from respect_core.store.manifests import MANIFEST, Manifest
from respect_core.versions import code_version
from tasks.registry import registry
from tasks.support.files import passing
from tasks.support.moved import relocate
from tasks.support.workspace import Workspace, workspace

_INDEX = "backup.json"
_STORE, _FILES, _DATABASE = "store", "mlartifacts", "mlflow.db"
_LOCAL = ("game", f"work/{SERVED}", f"work/{SERVED_CHATS}")
_SKIPPED = ("leases/", f"{SCRATCH}/")
_TRIES = 3


class BackupError(ExpectedError, ValueError):
    """A backup cannot be made or restored. The message names the file, what is wrong, and the remedy."""


class Index(BaseModel):
    """What a backup holds: sha256 by member."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 1
    run: str
    time: str  # ISO 8601, UTC, when it began
    code_version: str
    registry: bool  # whether MLflow's database and files are in it
    members: dict[str, str]


def back_up(place: Workspace, file: Path, progress: Callable[[str], None] = lambda _: None) -> Index:
    """Write a backup of a run to a new file, whole or not at all. Tables must not change meanwhile; logs may.

    Args:
        progress: called with the name of each member before it is written.

    Raises:
        BackupError: the file exists, or tables changed three times meanwhile.
        StoreError: the store does not answer.
    """
    if file.exists():
        raise BackupError(f"{file}: exists already; name a new file")
    with passing(file.absolute().parent, f".{file.name}-") as folder:
        for _ in range(_TRIES):
            with suppress(MissingKeyError):  # deleted since it was listed: a table was replaced
                index = _write(place, folder, progress)
                (folder / "tar").rename(file)
                return index
    raise BackupError(f"{place.store_uri}: its tables changed while they were copied; run again while no round runs")


def restore(file: Path, root: Path, progress: Callable[[str], None] = lambda _: None) -> Workspace:
    """Make a new run of a backup, whole or not at all, and return it.

    Raises:
        BackupError: the file is no backup or is damaged, the run exists already, or settings name another place for
            MLflow, or a store that is not empty.
    """
    root = root.absolute()
    if root.exists():
        raise BackupError(f"{root}: exists already; name a new run, or move that one away")
    with passing(root.parent, f".{root.name}-") as folder:
        index = _read(file, folder / "run", progress)
        target = workspace(folder / "settings")
        elsewhere = target.store_uri != str(target.root / "store")
        if index.registry and not target.tracking_uri.startswith(f"sqlite:///{target.root}"):
            raise BackupError(f"{file}: holds an MLflow of its own; unset MLFLOW_TRACKING_URI to restore it")
        if elsewhere:
            _upload(folder / "run" / _STORE, target.open())
        (folder / "run").rename(root)
    relocate(root)
    return workspace(root)


def misfits(place: Workspace) -> list[str]:
    """Return what does not fit: parts that tables lack, and versions of the ledger that the registry lacks or changed.

    The files of deployed versions are fetched and hashed.
    """
    store, found = place.open(), list[str]()
    keys = set(store.keys())
    for key in sorted(keys):
        if key.endswith(f"/{MANIFEST}"):
            found += [f"{store.uri}/{part} is missing" for part in _parts(key, store.read(key)) if part not in keys]
    for model in ledger.models(store):
        history = ledger.entries(store, model)
        for entry in history:
            try:
                version = registry.named(place, entry.to_version)
                if version.tags.get("adapter_hash") != entry.adapter_hash:
                    raise ValueError("it has another adapter")
                if entry is history[-1]:
                    registry.adapter(place, version, fresh=True)
            except ValueError as error:
                found.append(f"{entry.to_version}, of entry {entry.number} of the ledger of {model}: {error}")
    return found


# --- writing ----------------------------------------------------------------------------------------------------


def _write(place: Workspace, folder: Path, progress: Callable[[str], None]) -> Index:
    """Write the file `tar` in a folder. Raises MissingKeyError if the store's tables change meanwhile."""
    began, members = datetime.now(UTC).isoformat(), dict[str, str]()
    own = place.tracking_uri == f"sqlite:///{place.root / _DATABASE}"
    with tarfile.open(folder / "tar", "w") as tar:

        def add(name: str, source: BinaryIO) -> None:
            progress(name)
            members[name] = _add(tar, name, source)

        for name in _LOCAL:
            _add_tree(place.root, place.root / name, add)
        for key, source in _stored(place.open()):
            add(f"{_STORE}/{key}", source)
        if own and (place.root / _DATABASE).is_file():
            with _database(place.root / _DATABASE, folder / _DATABASE).open("rb") as source:
                add(_DATABASE, source)
            _add_tree(place.root, place.root / _FILES, add)
        index = Index(run=place.root.name, time=began, code_version=code_version(), registry=own, members=members)
        (folder / _INDEX).write_text(index.model_dump_json(indent=1))
        tar.add(folder / _INDEX, _INDEX)
    return index


def _stored(store: Store) -> Iterator[tuple[str, BinaryIO]]:
    """Yield what is stored: manifests as they were at first, and all that they name. Raises MissingKeyError."""
    found = [key for key in store.keys("") if not key.startswith(_SKIPPED)]
    manifests = {key: store.read(key) for key in found if key.endswith(f"/{MANIFEST}")}
    wanted = {part for key, data in manifests.items() for part in _parts(key, data)}
    for key in sorted({*store.keys(), *wanted} - manifests.keys()):
        if key.startswith(_SKIPPED) or key.endswith(f"/{MANIFEST}"):
            continue
        try:
            source = store.open(key)
        except MissingKeyError:
            if key in wanted:
                raise
            continue  # no table names it
        with closing(source):
            yield key, source
    for key, data in manifests.items():
        yield key, BytesIO(data)


def _parts(key: str, manifest: bytes) -> list[str]:
    """Return the keys of a table's parts."""
    folder = key.removesuffix(MANIFEST)
    return [folder + part.path for part in Manifest.model_validate_json(manifest).parts]


def _add(tar: tarfile.TarFile, name: str, source: BinaryIO) -> str:
    """Add a member, readable by its owner alone; return its sha256."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = source.seek(0, 2), 0o600, int(time.time())
    source.seek(0)
    hashed = _Hashed(source)
    tar.addfile(member, hashed)
    return hashed.digest.hexdigest()


def _add_tree(root: Path, folder: Path, add: Callable[[str, BinaryIO], None]) -> None:
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        with suppress(FileNotFoundError), path.open("rb") as source:  # it may have gone into the store meanwhile
            add(path.relative_to(root).as_posix(), source)


def _database(path: Path, copy: Path) -> Path:
    """Copy an SQLite database that others may be writing to, as it is at one moment."""
    with (
        closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
    return copy


class _Hashed:
    """A reader that hashes what it reads."""

    def __init__(self, source: BinaryIO) -> None:
        self._source, self.digest = source, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.digest.update(data)
        return data


# --- reading ----------------------------------------------------------------------------------------------------


def _read(file: Path, folder: Path, progress: Callable[[str], None]) -> Index:
    """Unpack a backup into a new folder. Raises BackupError unless each member is as it was written."""
    found, index = dict[str, str](), b""
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                progress(member.name)
                source = tar.extractfile(member) if member.isfile() else None
                if source is None:
                    raise BackupError(f"{file}: {member.name!r} is no file; it was not made by `respect backup`")
                if member.name == _INDEX:
                    index = source.read()
                    continue
                path = Path(tarfile.data_filter(member, str(folder)).name)
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                hashed = _Hashed(source)  # type: ignore[arg-type]  # it only reads
                with (folder / path).open("xb") as target:
                    shutil.copyfileobj(hashed, target)
                found[member.name] = hashed.digest.hexdigest()
        known = Index.model_validate_json(index)
    except (tarfile.TarError, OSError) as error:
        raise BackupError(f"{file}: cannot be read ({type(error).__name__}: {error}); take another backup") from None
    except ValidationError:
        raise BackupError(f"{file}: its index {_INDEX} is missing or unreadable; take another backup") from None
    _require_members(file, known.members, found)
    return known


def _require_members(file: Path, expected: dict[str, str], found: dict[str, str]) -> None:
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise BackupError(f"{file}: {wrong[0]!r}{more} is missing or was changed; take another backup")


def _upload(folder: Path, store: Store) -> None:
    """Put what was stored into another store. Raises BackupError unless it is empty."""
    if store.keys():
        raise BackupError(f"{store.uri}: holds something already; name an empty place in RESPECT_STORE")
    for path in _manifests_last(folder):
        store.put_file(path.relative_to(folder).as_posix(), path)
    shutil.rmtree(folder)


def _manifests_last(folder: Path) -> Iterable[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: (path.name == MANIFEST, path))
