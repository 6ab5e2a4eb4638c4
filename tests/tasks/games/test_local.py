"""Where chat logs lie: paths and patterns stay as they are, and objects on S3 are copied for as long as needed."""

from __future__ import annotations

from pathlib import Path

import pytest
from seaweedfs import S3Server

from respect_core.scenarios.chat.importers.files import ChatLogError, find
from respect_core.store.open import open_store
from tasks.games.chats import local


def test_paths_and_patterns_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n")
    with local([tmp_path, f"{tmp_path}/*.jsonl"]) as paths:
        assert [file.name for file, _ in find(paths)] == ["a.jsonl"]


def test_a_folder_and_an_object_on_s3_are_copied(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = open_store(f"s3://{s3_server.bucket}")
    for key in ("chats/a.jsonl", "chats/deep/b.json", "chats/notes.txt", "chats-of-others/c.jsonl"):
        bucket.put(key, key.encode())
    with local([f"s3://{s3_server.bucket}/chats", f"s3://{s3_server.bucket}/chats/notes.txt"]) as paths:
        assert [path.read_text() for path in paths] == ["chats/a.jsonl", "chats/deep/b.json", "chats/notes.txt"]
    assert not any(path.exists() for path in paths)
    with pytest.raises(ChatLogError, match="no such object"), local([f"s3://{s3_server.bucket}/nothing"]):
        pass
