"""Store bytes in a directory of this machine or of a file server."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from respect_core.store.base import LOCK, SCRATCH, Entry, MissingKeyError, Store, StoreError, check_key, missing


class DirectoryStore(Store):
    """A store in a local directory, created where absent."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.uri = str(self.root)
        self.scratch = self.root / SCRATCH
        with self.errors(""):
            _make_folder(self.scratch)

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return DirectoryStore, (self.root,)

    def entries(self, prefix: str = "") -> dict[str, Entry]:
        if ".." in PurePosixPath(prefix).parts or prefix.startswith("/"):
            raise StoreError(f"prefix {prefix!r} leaves the store; use e.g. 'turns/round=5/'")
        folder = self.root / prefix.rpartition("/")[0]
        entries = {}
        with self.errors(prefix):
            for parent, folders, names in os.walk(folder, onerror=_raise_unless_absent):
                if Path(parent) == self.root:
                    folders[:] = [name for name in folders if name != SCRATCH]
                    names = [name for name in names if name != LOCK]
                for name in names:
                    path = Path(parent, name)
                    key = path.relative_to(self.root).as_posix()
                    if key.startswith(prefix):
                        with suppress(FileNotFoundError):  # another process has deleted it
                            status = path.stat()
                            entries[key] = Entry(status.st_size, status.st_mtime)
        return dict(sorted(entries.items()))

    def exists(self, key: str) -> bool:
        with self.errors(key):
            return self._path(key).is_file()

    def open(self, key: str) -> BinaryIO:
        path = self._path(key)
        try:
            return path.open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise missing(self, key) from None
        except OSError as error:
            raise StoreError(f"{self.uri}/{key}: {error.strerror}; check its permissions") from error

    def put_file(self, key: str, path: Path) -> None:
        with self._prepared(key, path) as (ready, target):
            ready.replace(target)

    def read_version(self, key: str) -> tuple[bytes, str] | None:
        try:
            data = self.read(key)
        except MissingKeyError:
            return None
        return data, _version(data)

    def put_if(self, key: str, data: bytes, version: str | None) -> str | None:
        with self.spool() as path:
            with self.errors(key):
                path.write_bytes(data)
            stored = self._link(key, path) if version is None else self._replace(key, path, version)
        return _version(data) if stored else None

    def _link(self, key: str, path: Path) -> bool:
        try:
            with self._prepared(key, path) as (ready, target):
                os.link(ready, target)
        except StoreError as error:
            if isinstance(error.__cause__, FileExistsError):
                return False
            raise
        return True

    def _replace(self, key: str, path: Path, version: str) -> bool:
        with self._locked():
            current = self.read_version(key)
            if current is None or current[1] != version:
                return False
            self.put_file(key, path)
        return True

    def delete(self, key: str) -> None:
        with self.errors(key):
            self._path(key).unlink(missing_ok=True)

    @contextmanager
    def _prepared(self, key: str, path: Path) -> Iterator[tuple[Path, Path]]:
        """Yield a synced file in scratch and the place to move it to; sync that folder after the caller's move."""
        target = self._path(key)
        with self.spool() as copy, self.errors(key):
            ready = path if path.parent == self.scratch else copy
            if ready is copy:
                shutil.copyfile(path, copy)
            ready.chmod(0o666 & ~_UMASK)
            _sync(ready)
            _make_folder(target.parent)
            yield ready, target
            _sync(target.parent)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other threads and processes from comparing and setting a key of this store."""
        with self.errors(LOCK), (self.root / LOCK).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)


def _current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _current_umask()  # mkstemp makes private files; stored ones get the usual permissions


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, and sync them, so that they survive a power cut before anything is stored."""
    ancestry = [folder, *folder.parents]
    new = ancestry[: next(number for number, each in enumerate(ancestry) if each.exists())]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(new):
        _sync(each.parent)


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
