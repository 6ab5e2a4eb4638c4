"""Define the store of logs, tables, images and adapters: a directory or an S3 bucket, with the same behaviour.

Keys are relative paths such as ``turns/round=5/variant=b-fft/_manifest.json``. A key holds either nothing or
complete bytes, never a part of them: writers prepare a scratch file and move it into place. There is no append and
no rename; new contents go under a new key, which a manifest names (`respect_core.store.tables`). A key that several
processes may change at once is written only by `put_if`, a compare and set.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from respect_core.errors import ExpectedError

# Folder of unfinished files in a directory store; listings skip it. Files left by a killed process are harmless and may
# be deleted whenever nothing is writing.
SCRATCH = ".scratch"


LOCK = ".lock"  # file of a directory store, locked while a key is compared and set


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class StoreError(ExpectedError):
    """The store cannot do what was asked. The message names store, key, reason and remedy, and no secret."""


class MissingKeyError(StoreError):
    """Nothing is stored under the key."""


class Entry(NamedTuple):
    """A key's entry in a listing."""

    size: int  # bytes
    modified: float  # seconds since the epoch, by the store's clock


class Store(ABC):
    """Bytes under keys. `open_store` returns one; threads may share it, and it can be pickled."""

    uri: str
    scratch: Path
    """An existing local directory for files before they are stored."""

    @abstractmethod
    def entries(self, prefix: str = "") -> dict[str, Entry]:
        """List the keys that begin with `prefix` (a string, not a folder), in order."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Tell whether something is stored under `key`."""

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """Return a seekable binary reader, which the caller closes. Raises MissingKeyError."""

    @abstractmethod
    def put_file(self, key: str, path: Path) -> None:
        """Store a local file under `key`, replacing what was there, all or nothing.

        A file in `scratch` may be moved instead of copied; other files are left alone.
        """

    @abstractmethod
    def read_version(self, key: str) -> tuple[bytes, str] | None:
        """Return all bytes under `key` with their version; None where nothing is stored."""

    @abstractmethod
    def put_if(self, key: str, data: bytes, version: str | None) -> str | None:
        """Store `data` if the key still holds this version (None: nothing); of several writers exactly one succeeds.

        Returns:
            The version of `data`; None where the key holds something else.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete `key` if it exists."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store `data` unless the key exists already; of several writers exactly one gets True."""
        return self.put_if(key, data, None) is not None

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """List the keys that begin with `prefix`, in order, with their sizes in bytes."""
        return {key: entry.size for key, entry in self.entries(prefix).items()}

    def keys(self, prefix: str = "") -> list[str]:
        """List the keys that begin with `prefix`, in order."""
        return list(self.entries(prefix))

    def read(self, key: str) -> bytes:
        """Return all bytes under `key`. Raises MissingKeyError."""
        with self.open(key) as file:
            return file.read()

    def put(self, key: str, data: bytes) -> None:
        """Store `data` under `key`, replacing what was there, all or nothing."""
        with self.spool() as path:
            with self.errors(key):
                path.write_bytes(data)
            self.put_file(key, path)

    def upload_tree(self, directory: Path, prefix: str) -> list[str]:
        """Store every file below `directory` under `prefix`/relative path; return the keys, in order."""
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        if not files:
            raise StoreError(f"{directory}: no files to upload to {self.uri}/{prefix}; check the path")
        keys = [f"{prefix.rstrip('/')}/{path.relative_to(directory).as_posix()}" for path in files]
        for key, path in zip(keys, files, strict=True):
            self.put_file(key, path)
        return keys

    def download_tree(self, prefix: str, directory: Path) -> list[Path]:
        """Copy everything under the folder `prefix` to `directory`; return the files, in order of key.

        Raises MissingKeyError where nothing is stored there.
        """
        folder = prefix.rstrip("/") + "/"
        keys = self.keys(folder)
        if not keys:
            raise MissingKeyError(f"{self.uri}: nothing is stored under {folder}; check the name, or upload it first")
        paths = [directory / key.removeprefix(folder) for key in keys]
        for key, path in zip(keys, paths, strict=True):
            with self.open(key) as source, self.errors(key):
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as target:
                    shutil.copyfileobj(source, target)
        return paths

    @contextmanager
    def spool(self) -> Iterator[Path]:
        """Yield the path of a new empty file in `scratch`, and delete it at the end if it still exists."""
        with self.errors(""):
            descriptor, name = tempfile.mkstemp(dir=self.scratch, prefix="respect-")
            os.close(descriptor)
        path = Path(name)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    @contextmanager
    def errors(self, key: str) -> Iterator[None]:
        """Turn errors of local files into StoreError that names `key`."""
        try:
            yield
        except OSError as error:
            where = f"{self.uri}/{key}"
            if error.errno in _NO_ROOM:
                raise StoreError(
                    f"{where}: no room to write ({os.strerror(error.errno)}) at {self.scratch}; free space "
                    "or raise the limit and run again: nothing stored earlier was touched"
                ) from error
            raise StoreError(f"{where}: {error.strerror or error}; check the path and its permissions") from error

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r})"


def check_key(key: str) -> str:
    """Return the key if it is a clean relative path; raise StoreError otherwise."""
    parts = PurePosixPath(key).parts
    reserved = key != "/".join(parts) or not parts or parts[0] in (SCRATCH, LOCK)
    if reserved or key.startswith("/") or {".", ".."} & set(parts):
        raise StoreError(f"key {key!r} is not a relative path of plain names; use e.g. 'images/a.png'")
    if "\\" in key or any(ord(character) < 32 for character in key):
        raise StoreError(f"key {key!r} has a backslash or control character; use e.g. 'images/a.png'")
    return key


def missing(store: Store, key: str) -> MissingKeyError:
    """Return the error for a key that holds nothing."""
    return MissingKeyError(f"{store.uri}: nothing is stored under {key}; check the name, or write it first")
