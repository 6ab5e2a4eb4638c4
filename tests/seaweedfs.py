"""A real S3 server for tests and the bench: SeaweedFS."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from deployments.local import seaweedfs
from deployments.local.programs import program
from respect_core.store.open import open_store


@dataclass(frozen=True)
class S3Server:
    """A running server: what a client needs to reach its one bucket. It may be killed, and started on what it kept."""

    endpoint: str
    bucket: str
    environment: dict[str, str]
    kill: Callable[[], None]
    start: Callable[[], None]


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """SeaweedFS as in the local stack, keeping its files in a folder, with credentials made up for it."""
    bucket, key, secret = "respect-test", uuid.uuid4().hex, uuid.uuid4().hex
    ports = _free_ports(seaweedfs.PORTS)
    seaweedfs.prepare(folder)
    command = [*seaweedfs.command(program("weed"), folder, [bucket], ports), "-master.volumeSizeLimitMB=64"]
    credentials = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    log = folder / "server.log"
    endpoint = f"http://127.0.0.1:{ports[0]}"
    environment = credentials | {"RESPECT_S3_ENDPOINT": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        with log.open("ab") as output:
            server = subprocess.Popen(
                command, cwd=folder, env=os.environ | credentials, stdout=output, stderr=subprocess.STDOUT
            )
        running.append(server)
        _wait_for_bucket(server, f"s3://{bucket}", environment, log)

    def kill() -> None:
        running[-1].kill()
        running[-1].wait(timeout=60)

    try:
        start()
        yield S3Server(endpoint, bucket, environment, kill, start)
    finally:
        for server in running:
            server.kill()  # nothing of it is kept
            server.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _wait_for_bucket(server: subprocess.Popen[bytes], uri: str, environment: dict[str, str], log: Path) -> None:
    """Return when the bucket takes an object and gives it back; fail with the server's log when that takes too long."""
    deadline = time.monotonic() + 60
    with patch.dict(os.environ, environment):
        store = open_store(uri)
        while True:
            try:
                with urllib.request.urlopen(environment["RESPECT_S3_ENDPOINT"], timeout=5):
                    pass
            except urllib.error.HTTPError:
                pass  # it answers: anonymous access is refused
            except OSError as error:
                assert server.poll() is None and time.monotonic() < deadline, f"{error}; {log}:\n{log.read_text()}"
                time.sleep(0.1)
                continue
            try:
                store.put("ready", b"ready")  # of some bytes, which lie on a volume: those join last
                store.read("ready")
                return
            except Exception as error:
                assert server.poll() is None and time.monotonic() < deadline, f"{error}; {log}:\n{log.read_text()}"
                time.sleep(0.2)
