"""Backups of a run with a real MLflow on SQLite, in a directory or on S3."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import pytest
from mlflow_server import MlflowServer
from postgres import postgres_server
from running import free_ports
from samples import game, with_images
from typer.testing import CliRunner

from deployments.cli import main
from respect_core.log.export import export
from respect_core.log.log import append_logs
from respect_core.model.base import adapter_hash
from respect_core.release import ledger
from respect_core.store import tables
from respect_core.store.base import Store, missing
from respect_core.store.directory import DirectoryStore
from tasks.registry import deployed as deployment
from tasks.registry import registry
from tasks.registry.backups import BackupError, back_up, misfits, restore
from tasks.support.workspace import Workspace, workspace


def _promoted(place: Workspace, adapter: Path, number: int) -> None:
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"weights %d" % number)
    run_id = registry.start_run(place, f"b-fft round {number}")
    tags = {"round": number, "adapter_hash": adapter_hash(adapter)}
    registry.register_adapter(place, run_id, "b-fft", adapter, tags=tags, metrics={}, step=0)
    registry.end_run(place, run_id)
    history = ledger.entries(place.open(), "respect.b-fft")
    ledger.append(
        place.open(),
        ledger.promotion(
            history,
            "respect.b-fft",
            from_version="respect.seed/1",
            to_version=f"respect.b-fft/{number}",
            adapter_hash=adapter_hash(adapter),
            actor="ann",
        ),
    )


def _run(root: Path, adapters: Path) -> Workspace:
    """A run with a table, a promoted version, a journal, and a served turn that is not stored yet."""
    place = workspace(root)
    store = with_images(place.open())
    append_logs(store, [game("g1"), game("g2")])
    export(store, 5)
    _promoted(place, adapters / "1", 1)
    (root / "game").mkdir()
    (root / "game" / "1.jsonl").write_bytes(b'{"kind": "began"}\n')
    (place.scratch / "served_chats").mkdir(parents=True)
    (place.scratch / "served_chats" / "a.jsonl").write_bytes(b"{}\n")
    return place


@pytest.fixture
def place(new_store: Callable[[], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RESPECT_STORE", raising=False)
    store = new_store()
    if not isinstance(store, DirectoryStore):
        monkeypatch.setenv("RESPECT_STORE", store.uri)
    return _run(tmp_path / "runs" / "main", tmp_path / "adapters")


@pytest.mark.slow
def test_a_registry_on_postgresql_fits_again_once_its_own_tools_restored_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg2", reason="no driver for MLflow: pip install -c constraints.txt -e '.[postgres]'")
    monkeypatch.delenv("RESPECT_STORE", raising=False)
    _, of_postgres, *of_mlflow = free_ports()
    with postgres_server(of_postgres) as postgres, ExitStack() as ends:

        def serve(folder: Path, database: str) -> MlflowServer:
            folder.mkdir(exist_ok=True)
            server = MlflowServer(folder, of_mlflow.pop(), postgres.url("psycopg2", postgres.create(database)))
            ends.callback(server.kill)
            monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
            return server

        first = serve(tmp_path / "first", "first")
        first.start()
        place = _run(tmp_path / "runs" / "main", tmp_path / "adapters")
        assert not back_up(place, tmp_path / "a.tar").registry
        _promoted(place, tmp_path / "adapters" / "2", 2)  # after the store's backup, and before the database's
        postgres.run("pg_dump", "first", "-Fc", "-f", tmp_path / "mlflow.dump")
        shutil.copytree(first.folder / "artifacts", tmp_path / "second" / "artifacts")
        first.kill()
        for lost in (first.folder, place.root):
            shutil.rmtree(lost)
        second = serve(tmp_path / "second", "second")
        postgres.run("pg_restore", "second", tmp_path / "mlflow.dump")
        second.start()
        again = restore(tmp_path / "a.tar", tmp_path / "runs" / "again")
        assert not misfits(again)
        assert int(deployment.deployed(again, "b-fft").version) == 1, "as the ledger says"


def _stored(store: Store) -> dict[str, bytes]:
    return {key: store.read(key) for key in store.keys("") if not key.startswith("leases/")}


def test_a_backup_is_a_run_again_when_the_first_is_gone(
    place: Workspace, new_store: Callable[[], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rows = _stored(place.open()), tables.read_table(place.open(), "turns")
    back_up(place, tmp_path / "a.tar")
    _promoted(place, tmp_path / "adapters" / "2", 2)  # after the backup
    shutil.rmtree(place.root)
    if place.store_uri.startswith("s3:"):
        monkeypatch.setenv("RESPECT_STORE", new_store().uri)
    again = restore(tmp_path / "a.tar", tmp_path / "runs" / "again")
    assert _stored(again.open()) == before and tables.read_table(again.open(), "turns") == rows
    assert not misfits(again)
    version = deployment.deployed(again, "b-fft")
    assert (version.name, version.version) == ("respect.b-fft", 1)
    assert (registry.download(again, version) / "adapter_model.safetensors").read_bytes() == b"weights 1"
    assert (again.root / "game" / "1.jsonl").read_bytes() == b'{"kind": "began"}\n'
    assert (again.scratch / "served_chats" / "a.jsonl").read_bytes() == b"{}\n"
    _promoted(again, tmp_path / "adapters" / "3", 2)
    assert not misfits(again), "the registry counts on"
    assert sorted(path.name for path in again.root.parent.iterdir()) == ["again"]


def test_a_table_that_is_replaced_meanwhile_is_copied_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RESPECT_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    place = _run(tmp_path / "runs" / "main", tmp_path / "adapters")
    tries, gone, opened = list[str](), 2, DirectoryStore.open

    def open_unless_gone(store: DirectoryStore, key: str) -> BinaryIO:
        if key.startswith("turns/") and "/part-" in key:
            tries.append(key)
            if len(tries) <= gone:
                raise missing(store, key)
        return opened(store, key)

    monkeypatch.setattr(DirectoryStore, "open", open_unless_gone)
    back_up(place, tmp_path / "a.tar")
    assert len(tries) == 3 and not misfits(restore(tmp_path / "a.tar", tmp_path / "runs" / "again"))
    gone = 99
    with pytest.raises(BackupError, match="run again while no round runs"):
        back_up(place, tmp_path / "b.tar")
    assert not list(tmp_path.glob("*b.tar*"))


def test_what_is_damaged_or_would_overwrite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RESPECT_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    place, file = _run(tmp_path / "runs" / "main", tmp_path / "adapters"), tmp_path / "a.tar"
    made = CliRunner().invoke(main.app, ["backup", "a.tar"])
    assert made.exit_code == 0 and "files" in made.stdout, made.output
    with pytest.raises(BackupError, match="exists already; name a new file"):
        back_up(place, file)
    with pytest.raises(BackupError, match="exists already; name a new run"):
        restore(file, place.root)
    data = file.read_bytes()
    at = data.index(b"weights 1")
    for damaged in (data[:at] + b"Weights" + data[at + 7 :], data[: len(data) // 2], b"nothing"):
        (tmp_path / "bad.tar").write_bytes(damaged)
        with pytest.raises(BackupError, match=r"bad\.tar"):
            restore(tmp_path / "bad.tar", tmp_path / "runs" / "bad")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["main"], "nothing half restored"
    done = CliRunner().invoke(main.app, ["restore", "a.tar", "--run", "again"])
    assert done.exit_code == 0 and "all versions of the ledger are there" in " ".join(done.stdout.split()), done.output
    (part,) = (path for path in (tmp_path / "runs/again/store/turns").rglob("part-*"))
    part.unlink()
    registry.client(workspace(tmp_path / "runs/again")).delete_model_version("respect.b-fft", "1")
    wrong = misfits(workspace(tmp_path / "runs/again"))
    assert len(wrong) == 2 and "is missing" in wrong[0] and "entry 1 of the ledger of respect.b-fft" in wrong[1]
