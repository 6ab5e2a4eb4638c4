"""Open a store by its URI."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from respect_core.store.base import Store, StoreError
from respect_core.store.directory import DirectoryStore


def open_store(uri: str | Path) -> Store:
    """Open ``/a/directory``, ``file:///a/directory`` or ``s3://bucket/prefix``.

    S3 reads the standard AWS variables and files for credentials and region; RESPECT_S3_ENDPOINT (or
    AWS_ENDPOINT_URL) names an endpoint other than Amazon's. Nothing is sent until the store is used.

    Raises:
        StoreError: a scheme that is not supported, or a directory that cannot be created.
    """
    text = str(uri)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", text)
    if scheme is None:
        return DirectoryStore(Path(text))
    parts = urlsplit(text)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return DirectoryStore(Path(unquote(parts.path)))
    if parts.scheme == "s3":
        from respect_core.store.s3 import S3Store  # boto3 takes a while to import, and directories do not need it

        return S3Store(parts.netloc, parts.path.strip("/"))
    raise StoreError(f"store scheme {scheme[1]!r} is not supported; use /a/directory, file:/a/directory or s3://bucket")


def stores_in(store: Store, folder: str) -> dict[str, Store]:
    """Return the stores inside a folder of this one, by name."""
    names = {key.split("/")[1] for key in store.keys(f"{folder}/")}
    return {name: open_store(f"{store.uri}/{folder}/{name}") for name in sorted(names)}
