"""A player who is forgotten leaves no word in journal and store, while the game runs and after it was restarted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from game_servers import player, rooms, serving, until
from seaweedfs import S3Server
from traces import in_folder, in_store

from deployments.game.durability.forgotten import JournalLines
from respect_core.log import forgetting
from respect_core.log.forgetting import Receipt
from respect_core.log.log import LOGS
from respect_core.store.base import Store
from tasks.support.workspace import workspace

pytestmark = pytest.mark.timeout(300)
SECRET = "zébra"


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        for name, value in {**server.environment, "RESPECT_STORE": f"s3://{server.bucket}/{tmp_path.name}"}.items():
            monkeypatch.setenv(name, value)
    return workspace(tmp_path).open()


async def _play(port: int, said: str, *, leave: bool = True) -> None:
    async with player(port) as one:
        await one.start(variant="b-fft")
        await one.state_where(phase="writing")
        await one.say(said)
        if leave:
            await one.state_where(turn=1)
            await one.send(type="leave", game=one.state["game"])
            await one.state_where(phase="over")


def _forget(store: Store, folder: Path, user: str) -> Receipt:
    return forgetting.forget(store, forgetting.user(user), [JournalLines(folder / "game")])


def test_the_journal_and_the_store_forget(store: Store, tmp_path: Path) -> None:
    with serving(rooms(tmp_path)) as running:
        asyncio.run(_play(running.port, "a boat"))
        asyncio.run(_play(running.port, f"a {SECRET}"))
        asyncio.run(_play(running.port, f"another {SECRET}", leave=False))  # runs on
        until(lambda: not running.rooms.archiver.unstored and len(store.keys("games/")) == 2)
        users = {
            each.user
            for table in running.rooms.tables.values()
            for each in [running.rooms.players.by_key(table.seats["speaker"])]
            if each and any(SECRET in turn.utterance for turn in table.game.turns)
        }
        assert len(users) == 2, "each is another player"
        for user in users:
            receipt = _forget(store, tmp_path, user)
            assert "restart it" in receipt.left["journal of the game"]
        assert not in_store(store, SECRET)
        table = next(each for each in running.rooms.tables.values() if each.ending is None)
        running.call(running.rooms.end(table, lambda: table.end("stopped")))
        until(lambda: not running.rooms.archiver.unstored)
        assert not in_store(store, SECRET), "what ends later is not stored"
    assert in_folder(tmp_path / "game", SECRET)
    receipt = _forget(store, tmp_path, sorted(users)[0])
    assert not receipt.left and receipt.places["journal of the game"].records > 0
    assert not in_folder(tmp_path, SECRET) and not in_store(store, SECRET)
    with serving(rooms(tmp_path)) as running:
        asyncio.run(_play(running.port, "a cup"))
        until(lambda: not running.rooms.archiver.unstored and len(store.keys("games/")) == 2)
    assert len(store.keys(f"{LOGS}/")) == 2, "of the first player, and of this one"


def test_a_server_that_starts_leaves_out_what_was_forgotten_while_it_ran(store: Store, tmp_path: Path) -> None:
    with serving(rooms(tmp_path)) as running:
        asyncio.run(_play(running.port, f"a {SECRET}", leave=False))
        (table,) = running.rooms.tables.values()
        (user,) = running.rooms.users(table).values()
        assert _forget(store, tmp_path, user).left
    with serving(rooms(tmp_path)) as running:
        until(lambda: not running.rooms.archiver.unstored)
        assert not running.rooms.tables
    assert not in_folder(tmp_path, SECRET) and not in_store(store, SECRET) and not store.keys("games/")
