"""Store bytes in an S3 bucket, through boto3."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import boto3
import botocore.session
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
)

from respect_core.settings import settings
from respect_core.store.base import Entry, MissingKeyError, Store, StoreError, check_key, missing

_IN_MEMORY = 8 << 20  # bytes; larger objects are spooled to a temporary file while they are read
_CONFLICT_PAUSES = (0.05, 0.2, 0.5, 1.0)  # seconds before a conditional write is sent again
_CHANGED = {"PreconditionFailed", "412"}
_ABSENT = {"NoSuchKey", "404", "NotFound"}
_DENIED = {
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "403",
    "Forbidden",
}


class S3Store(Store):
    """A store under a prefix of a bucket. Requests are tried up to AWS_MAX_ATTEMPTS times (5)."""

    def __init__(self, bucket: str, prefix: str = "") -> None:
        if not bucket or "@" in bucket or ":" in bucket:
            raise StoreError(
                "an S3 store is written s3://bucket/prefix; credentials belong in AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, the endpoint in RESPECT_S3_ENDPOINT"
            )
        self.bucket = bucket
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self.scratch = Path(tempfile.gettempdir())
        self._prefix = prefix + "/" if prefix else ""
        try:
            endpoint = settings().s3_endpoint
            session = _session()
            self._client = session.client(
                "s3",
                endpoint_url=endpoint,
                region_name=session.region_name or "us-east-1",
                config=Config(
                    connect_timeout=5,
                    read_timeout=60,
                    retries={"mode": "standard", "total_max_attempts": settings().s3_attempts},
                    # Servers other than Amazon's know neither bucket host names nor the newer default checksums.
                    s3={"addressing_style": "path" if endpoint else "auto"},
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
            )
        except (BotoCoreError, ValueError) as error:
            raise StoreError(f"{self.uri}: {error}; check RESPECT_S3_ENDPOINT and the AWS configuration") from None
        self._transfer = TransferConfig(max_concurrency=4)

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return S3Store, (self.bucket, self._prefix.rstrip("/"))

    def entries(self, prefix: str = "") -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        with self.errors(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for entry in page.get("Contents", []):
                    if not entry["Key"].endswith("/"):  # folder markers of S3 browsers
                        key = entry["Key"].removeprefix(self._prefix)
                        entries[key] = Entry(entry["Size"], entry["LastModified"].timestamp())
        return dict(sorted(entries.items()))  # not every server keeps the order that the protocol promises

    def exists(self, key: str) -> bool:
        full_key = self._key(key)
        with self.errors(key):
            try:
                self._client.head_object(Bucket=self.bucket, Key=full_key)
            except ClientError as error:
                if _code(error) not in _ABSENT:
                    raise
                self._client.head_bucket(Bucket=self.bucket)  # a HEAD does not say whether the bucket is missing
                return False
        return True

    def open(self, key: str) -> BinaryIO:
        full_key = self._key(key)
        with self.errors(key):
            answer = self._client.get_object(Bucket=self.bucket, Key=full_key)
            # Large objects, and broken reads, are left to boto's transfer: it fetches parts in parallel, and retries.
            with closing(answer["Body"]) as body, suppress(HTTPClientError, IncompleteReadError):
                if answer["ContentLength"] <= _IN_MEMORY:
                    return io.BytesIO(body.read())
        file = tempfile.TemporaryFile(dir=str(self.scratch))  # noqa: SIM115  (returned open)
        try:
            with self.errors(key):
                self._client.download_fileobj(self.bucket, full_key, file, Config=self._transfer)
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return cast(BinaryIO, file)

    def put(self, key: str, data: bytes) -> None:
        full_key = self._key(key)
        with self.errors(key):
            self._client.put_object(Bucket=self.bucket, Key=full_key, Body=data)

    def put_file(self, key: str, path: Path) -> None:
        full_key = self._key(key)
        with self.errors(key), path.open("rb") as file:
            self._client.upload_fileobj(file, self.bucket, full_key, Config=self._transfer)

    def read_version(self, key: str) -> tuple[bytes, str] | None:
        full_key = self._key(key)
        with suppress(MissingKeyError), self.errors(key):
            answer = self._client.get_object(Bucket=self.bucket, Key=full_key)
            with closing(answer["Body"]) as body:
                return body.read(), answer["ETag"]
        return None

    def put_if(self, key: str, data: bytes, version: str | None) -> str | None:
        """Store `data` as the base class says. The server must know conditional writes, as Amazon and SeaweedFS do."""
        full_key = self._key(key)
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        conflicts = _CHANGED if version is None else _CHANGED | {"NoSuchKey"}
        pauses = iter(_CONFLICT_PAUSES)
        while True:
            with self.errors(key):
                try:
                    answer = self._client.put_object(Bucket=self.bucket, Key=full_key, Body=data, **condition)
                    return cast(str, answer["ETag"])
                except ClientError as error:
                    if _code(error) in conflicts:
                        # The first of boto's attempts may have succeeded, with its answer lost.
                        retries = error.response["ResponseMetadata"].get("RetryAttempts")
                        current = self.read_version(key) if retries else None
                        return current[1] if current and current[0] == data else None
                    pause = next(pauses, None)
                    if pause is None or _code(error) != "ConditionalRequestConflict":
                        raise
            time.sleep(pause)  # another write was in progress, and may have failed: no writer has won yet

    def delete(self, key: str) -> None:
        full_key = self._key(key)
        with self.errors(key):
            self._client.delete_object(Bucket=self.bucket, Key=full_key)

    @contextmanager
    def errors(self, key: str) -> Iterator[None]:
        where = f"{self.uri}/{key}".rstrip("/")
        try:
            with super().errors(key):
                yield
        except ClientError as error:
            raise self._explain(error, key, where) from None
        except NoCredentialsError:
            raise StoreError(f"{where}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from None
        except (ConnectionError, HTTPClientError) as error:
            raise StoreError(
                f"{where}: the endpoint {self._endpoint()} cannot be reached ({type(error).__name__}); "
                "check RESPECT_S3_ENDPOINT and that the server runs"
            ) from None
        except BotoCoreError as error:
            raise StoreError(f"{where}: {type(error).__name__}; check the AWS configuration") from error

    def _explain(self, error: ClientError, key: str, where: str) -> StoreError:
        code = _code(error)
        if code == "NoSuchBucket" or (code in _ABSENT and error.operation_name == "HeadBucket"):
            return StoreError(
                f"{where}: the bucket {self.bucket!r} does not exist at {self._endpoint()}; "
                "create it, or correct the store's address"
            )
        if code in _ABSENT:
            if error.operation_name == "HeadObject":  # the transfer asks for the size first
                try:
                    self._client.head_bucket(Bucket=self.bucket)
                except ClientError as bucket_error:
                    return self._explain(bucket_error, key, where)
            return missing(self, key)
        if code in _DENIED:
            return StoreError(
                f"{where}: access denied ({code}) at {self._endpoint()}; check AWS_ACCESS_KEY_ID, "
                f"AWS_SECRET_ACCESS_KEY and the rights on the bucket {self.bucket!r}"
            )
        return StoreError(f"{where}: the server answered {code} to {error.operation_name}; see the server's log")

    def _endpoint(self) -> str:
        """Return the endpoint's scheme, host and port, without anything secret in its address."""
        parts = urlsplit(self._client.meta.endpoint_url)
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")

    def _key(self, key: str) -> str:
        return self._prefix + check_key(key)


def _session() -> boto3.session.Session:
    """Open a session with the current environment; the description of S3, which is slow to read, is read once."""
    session = botocore.session.get_session()
    session.register_component("data_loader", _loader())
    return boto3.session.Session(botocore_session=session)


@cache
def _loader() -> Any:
    return botocore.session.get_session().get_component("data_loader")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))
