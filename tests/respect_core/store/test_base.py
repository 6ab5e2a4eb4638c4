"""The store: the same tests on a directory and on a real S3 server, then each one's own errors."""

from __future__ import annotations

import errno
import io
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ConnectionClosedError

from respect_core.store.base import MissingKeyError, Store, StoreError
from respect_core.store.open import open_store
from respect_core.store.s3 import S3Store


def test_put_read_replace_delete(store: Store) -> None:
    store.put("a/b.bin", b"one")
    assert store.read("a/b.bin") == b"one"
    store.put("a/b.bin", b"two")
    assert store.read("a/b.bin") == b"two"
    assert store.exists("a/b.bin")
    store.delete("a/b.bin")
    store.delete("a/b.bin")
    assert not store.exists("a/b.bin")
    assert store.keys() == []


def test_keys_are_sorted_and_select_by_prefix(store: Store) -> None:
    names = ["a/b", "a.b", "a/b/c2", "a-b", "ab/c", "b/é ü+=", "a/B"]
    names.remove("a/b")  # a key cannot also be a folder in a directory
    for name in names:
        store.put(name, name.encode())
    assert store.keys() == sorted(names)
    assert store.keys("a/") == ["a/B", "a/b/c2"]
    assert store.keys("a") == ["a-b", "a.b", "a/B", "a/b/c2", "ab/c"]
    assert store.keys("a/b") == ["a/b/c2"]
    assert store.keys("nowhere/") == []
    assert store.sizes("b/") == {"b/é ü+=": len("b/é ü+=".encode())}


def test_listing_goes_over_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(store, "_client"):
        paginator = store._client.get_paginator("list_objects_v2")
        paginate = paginator.paginate
        monkeypatch.setattr(store._client, "get_paginator", lambda name: paginator)
        monkeypatch.setattr(paginator, "paginate", lambda **a: paginate(**a, PaginationConfig={"PageSize": 3}))
    names = [f"part/{number:03}" for number in range(10)]
    for name in names:
        store.put(name, b"")
    assert store.keys("part/") == names


def test_open_seeks(store: Store) -> None:
    store.put("data", b"0123456789\nabc\n")
    with store.open("data") as file:
        assert file.read(3) == b"012"
        assert file.seek(-4, 2) == 11
        assert file.read() == b"abc\n"
        file.seek(0)
        assert list(file) == [b"0123456789\n", b"abc\n"]


def test_large_object(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "large"
    data = os.urandom(1 << 20) * 20
    source.write_bytes(data)
    store.put_file("large", source)
    assert source.exists(), "a file from elsewhere is copied"
    assert store.read("large") == data


def test_absent_key(store: Store) -> None:
    with pytest.raises(MissingKeyError, match=r"nothing is stored under no/such.*check the name"):
        store.read("no/such")
    assert not store.exists("no/such")


def test_put_if_absent_has_one_winner(store: Store) -> None:
    won = []

    def write(number: int) -> None:
        if store.put_if_absent("locks/one", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("locks/one") == str(won[0]).encode()
    assert not store.put_if_absent("locks/one", b"late")


def test_compare_and_set(store: Store) -> None:
    assert store.read_version("x") is None
    assert store.put_if("x", b"late", "some version") is None and not store.exists("x")
    first = store.put_if("x", b"one", None)
    assert first and store.read_version("x") == (b"one", first)
    assert store.put_if("x", b"another", None) is None
    second = store.put_if("x", b"two", first)
    assert second and store.read_version("x") == (b"two", second)
    assert store.put_if("x", b"late", first) is None
    assert store.read("x") == b"two"


def test_compare_and_set_loses_no_update(store: Store) -> None:
    store.put_if("count", b"0", None)

    def add(_: int) -> None:
        while True:
            data, version = store.read_version("count") or (b"", None)
            if store.put_if("count", str(int(data) + 1).encode(), version):
                return

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(add, range(9)))
    assert store.read("count") == b"9"


def test_trees(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "adapter"
    (source / "deep").mkdir(parents=True)
    (source / "adapter_config.json").write_text("{}")
    (source / "deep" / "weights.bin").write_bytes(b"\0" * 1000)
    keys = store.upload_tree(source, "adapters/one")
    store.put("adapters/one-more/x", b"another adapter")
    assert keys == ["adapters/one/adapter_config.json", "adapters/one/deep/weights.bin"]
    target = tmp_path / "copy"
    assert [path.relative_to(target).as_posix() for path in store.download_tree("adapters/one", target)] == [
        "adapter_config.json",
        "deep/weights.bin",
    ]
    assert (target / "deep" / "weights.bin").read_bytes() == b"\0" * 1000
    with pytest.raises(MissingKeyError, match="adapters/two"):
        store.download_tree("adapters/two", target)
    with pytest.raises(StoreError, match="no files to upload"):
        store.upload_tree(tmp_path / "empty", "adapters/empty")


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../x", "a/../x", "a//b", "a/", "./a", ".scratch/a", ".lock", "a\\b", "a\nb"]
)
def test_keys_that_are_refused(store: Store, key: str) -> None:
    for act in (store.read, store.delete, store.exists, lambda key: store.put(key, b"")):
        with pytest.raises(StoreError, match=r"use e[.]g[.]"):
            act(key)


def test_survives_pickling(store: Store) -> None:
    store.put("x", b"1")
    assert pickle.loads(pickle.dumps(store)).read("x") == b"1"


def test_nothing_half_written_is_seen(store: Store) -> None:
    store.put("x", b"before")
    with store.spool() as path:
        path.write_bytes(b"half")
        assert store.keys() == ["x"]
    assert not path.exists()


def test_a_reader_sees_one_version_or_the_other(store: Store) -> None:
    versions = [bytes([number]) * 300_000 for number in range(4)]
    store.put("x", versions[0])
    seen, begun, done = set(), threading.Event(), threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(store.read("x"))
            begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(60)
    for version in versions * 3:
        store.put("x", version)
    done.set()
    reader.join()
    assert seen and seen <= set(versions)


# --- a directory's own errors ---------------------------------------------------------------------------------


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path)
    store.put("x", b"before")

    def no_room(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(StoreError, match=r"x: no room to write .*free space.*nothing stored earlier was touched"):
        store.put("x", b"after")
    assert store.read("x") == b"before"
    assert list(store.scratch.iterdir()) == []


def test_new_folders_outlast_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new folder's entry stands in the folder above it: that one is synced."""
    synced, plain = set(), os.fsync

    def recorded(descriptor: int) -> None:
        synced.add(Path(f"/proc/self/fd/{descriptor}").readlink())
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    store = open_store(tmp_path / "new" / "store")
    assert {tmp_path, tmp_path / "new", tmp_path / "new" / "store"} <= synced
    for put in (store.put, store.put_if_absent):
        synced.clear()
        put(f"{put.__name__}/b/c", b"1")
        assert {store.scratch.parent, *(store.scratch.parent / put.__name__ / name for name in ("", "b"))} <= synced


def test_a_key_that_is_deleted_during_a_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path)
    store.put("x", b"1")
    monkeypatch.setattr(os, "walk", lambda folder, **_: iter([(str(folder), [], ["gone", "x"])]))
    assert store.keys() == ["x"]


def test_addresses(tmp_path: Path) -> None:
    open_store(tmp_path / "a b").put("x", b"1")
    assert open_store(f"file://{tmp_path}/a%20b").read("x") == b"1"
    with pytest.raises(StoreError, match="scheme 'gs' is not supported"):
        open_store("gs://bucket")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="check the path"):
        open_store(tmp_path / "file")


# --- S3's own errors ------------------------------------------------------------------------------------------


@pytest.fixture
def s3_environment(s3_server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.bucket


def test_bucket_that_is_not_there(s3_environment: str, tmp_path: Path) -> None:
    store = open_store("s3://no-such-bucket/prefix")
    for act in (store.keys, lambda: store.read("x"), lambda: store.put("x", b"1"), lambda: store.exists("x")):
        with pytest.raises(StoreError, match=r"bucket 'no-such-bucket' does not exist at http.*create it") as caught:
            act()
        assert not isinstance(caught.value, MissingKeyError)
    with pytest.raises(StoreError, match="does not exist"):
        store.put_if_absent("x", b"1")


def test_wrong_credentials(s3_environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    store = open_store(f"s3://{s3_environment}/x")
    for act in (store.keys, lambda: store.read("x"), lambda: store.put("x", b"1"), lambda: store.exists("x")):
        with pytest.raises(StoreError, match=r"access denied .*check AWS_ACCESS_KEY_ID") as caught:
            act()
        assert "not-the-secret" not in str(caught.value)


def test_no_credentials(s3_environment: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match="no credentials; set AWS_ACCESS_KEY_ID"):
        open_store(f"s3://{s3_environment}").keys()


def test_unreachable_endpoint(s3_environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESPECT_S3_ENDPOINT", "http://someone:hidden@127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with pytest.raises(StoreError, match=r"endpoint http://127.0.0.1:1 cannot be reached.*server runs") as caught:
        open_store(f"s3://{s3_environment}").keys()
    assert "hidden" not in str(caught.value)


def test_credentials_in_the_address_are_refused() -> None:
    with pytest.raises(StoreError, match="credentials belong in AWS_ACCESS_KEY_ID") as caught:
        open_store("s3://key:hidden@bucket/prefix")
    assert "hidden" not in str(caught.value)


def test_a_write_whose_answer_was_lost_counts_for_its_writer(s3_environment: str) -> None:
    """The server stores it, the connection breaks, boto sends it again: now the key exists."""
    store = open_store(f"s3://{s3_environment}/lost-answer")
    assert isinstance(store, S3Store)
    sent = []

    def break_off(request: Any, **_: Any) -> None:
        sent.append(request)
        if len(sent) == 1:
            store._client._endpoint.http_session.send(request)
            raise ConnectionClosedError(endpoint_url=request.url)

    store._client.meta.events.register("before-send.s3.PutObject", break_off)
    assert store.put_if_absent("x", b"mine") and len(sent) == 2
    assert not store.put_if_absent("x", b"mine")


def test_a_conflict_is_no_defeat(s3_environment: str) -> None:
    """409 tells that another write is under way. It may fail: then ours is to be stored."""
    store = open_store(f"s3://{s3_environment}/conflict")
    assert isinstance(store, S3Store)
    conflicts = [2]

    def conflict(request: Any, **_: Any) -> AWSResponse | None:
        conflicts[0] -= 1
        if conflicts[0] < 0:
            return None
        answer = io.BytesIO(b"<Error><Code>ConditionalRequestConflict</Code></Error>")
        answer.stream = lambda **_: iter([answer.read()])  # type: ignore[attr-defined]  # of urllib3's responses
        return AWSResponse(request.url, 409, {}, answer)

    store._client.meta.events.register("before-send.s3.PutObject", conflict)
    assert store.put_if_absent("x", b"1")
    conflicts[0] = 2
    assert not store.put_if_absent("x", b"2") and store.read("x") == b"1"
    conflicts[0] = 100
    with pytest.raises(StoreError, match="ConditionalRequestConflict"):
        store.put_if_absent("y", b"1")
