"""The S3 server of the local stack and of these tests: nobody gets past its keys."""

from __future__ import annotations

import stat
from pathlib import Path

import psutil
import pytest
import strangers
from seaweedfs import S3Server

from deployments.local import seaweedfs
from respect_core.store.open import open_store


def test_no_port_lets_strangers_read_or_write(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    store = open_store(f"s3://{s3_server.bucket}/store")
    store.put("ready", b"ready")
    (server,) = [each for each in psutil.Process().children() if "weed" in each.name()]
    ports = strangers.listening(server)
    assert len(ports) == seaweedfs.PORTS
    assert not [found for port in ports for found in strangers.let_in(port, tmp_path, s3_server.bucket)]
    assert store.keys() == ["ready"] and store.read("ready") == b"ready"


def test_the_key_is_its_owners_alone_and_stays(tmp_path: Path) -> None:
    seaweedfs.prepare(tmp_path / "s3")
    key = (tmp_path / "s3" / seaweedfs.KEY).read_bytes()
    seaweedfs.prepare(tmp_path / "s3")
    assert (tmp_path / "s3" / seaweedfs.KEY).read_bytes() == key
    assert stat.S_IMODE((tmp_path / "s3" / seaweedfs.KEY).stat().st_mode) == 0o600
