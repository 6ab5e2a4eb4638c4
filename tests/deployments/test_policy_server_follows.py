"""The policy server while what is deployed changes: nobody is dropped, games keep their version, the rest follows."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import pytest
from policy_servers import (
    MODEL,
    SEED,
    PlayedGame,
    Running,
    by_hand,
    files_in_registry,
    promote,
    promotion,
    registered,
    roll_back,
    serving,
    until,
)

from deployments.serving import follow
from respect_core.release import ledger
from tasks.registry import registry
from tasks.support.workspace import Workspace

pytestmark = pytest.mark.timeout(1200)
ONE, TWO, THREE = (f"{MODEL}/{number}" for number in (1, 2, 3))
CLIENTS = 6


@pytest.fixture(scope="module")
def registered_place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return registered(tmp_path_factory.mktemp("policy-server-follows"))


@pytest.fixture
def place(registered_place: Workspace) -> Workspace:
    """With nothing promoted."""
    shutil.rmtree(registered_place.root / "store" / "promotions", ignore_errors=True)
    return registered_place


def test_promote_rollback_promote_under_load(place: Workspace) -> None:
    changes = {ONE: partial(promote, place, 1), SEED: partial(roll_back, place), TWO: partial(promote, place, 2)}
    played: list[PlayedGame] = []
    numbers, ending = itertools.count(), threading.Event()

    def client(running: Running) -> None:
        while not ending.is_set():
            game = PlayedGame(f"stream-{next(numbers)}")
            played.append(game)
            game.play(running, 3)
            running.client.delete(f"/games/b-fft/{game.name}").raise_for_status()

    with serving(place) as running, ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, running) for _ in range(CLIENTS)]
        try:
            steady = PlayedGame("steady").play(running)
            middle = PlayedGame("middle")
            seconds = []
            for version, change in changes.items():
                change()
                seconds.append(until(partial(running.serves, version)))
                fresh = PlayedGame(f"fresh-{len(seconds)}").play(running)
                played.append(fresh)
                running.client.delete(f"/games/b-fft/{fresh.name}").raise_for_status()
                assert {name for name, _ in fresh.versions} == {version}
                if version == ONE:
                    one = weakref.ref(running.server.roster.deployed()["b-fft"])
                middle.play(running)
                steady.play(running)
            assert one() is not None and running.ready()["running_games"][ONE] >= 1  # a game still needs it
        finally:
            ending.set()
        for each in clients:
            each.result()
        running.client.delete("/games/b-fft/middle").raise_for_status()
        until(lambda: one() is None)  # the last game of it is over
        assert ONE not in running.ready()["running_games"]
        assert running.metric('responses_total{code="200"}') == sum(
            len(game.codes) for game in (*played, steady, middle)
        )
        assert all(code == 200 for game in played for code in game.codes)

    assert max(seconds) < 60, seconds  # a look every 0.2 s, and loading; the rest is for a busy machine
    assert {name for name, _ in steady.versions} == {SEED} and {name for name, _ in middle.versions} == {ONE}
    assert all(len(game.versions) == 1 for game in played)
    by_version = {
        name: [game for game in played if {n for n, _ in game.versions} == {name}] for name in (SEED, ONE, TWO)
    }
    for name, games in by_version.items():
        tags = registry.named(place, name).tags
        assert {digest for game in games for _, digest in game.versions} == {tags["adapter_hash"]}
        some = games[:3]
        assert some, f"no game began with {name}"
        acts = [[reply["action"] for reply in game.replies] for game in some]
        assert acts == [[action for action, _ in game] for game in by_hand(place, name, some)]
    last = ledger.last(place.open(), MODEL)
    assert last is not None and last.to_version == TWO
    assert registry.aliases(place, MODEL)[registry.DEPLOYED] == "2"  # the server's own look has settled it


def test_while_the_registry_is_away_what_is_loaded_goes_on(place: Workspace) -> None:
    """Another program locks its database."""
    promote(place, 1)
    with serving(place) as running:
        until(lambda: running.ready()["following"] and running.metric("following") == 1)
        game, entry = PlayedGame("through").play(running), promotion(place, 2)
        with closing(sqlite3.connect(place.root / "mlflow.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            ledger.append(place.open(), entry)
            until(lambda: not running.ready()["following"])
            assert running.client.get("/ready").status_code == 200 and running.serves(ONE)
            assert running.metric("following") == 0
            age = running.metric("contact_age_seconds")
            assert age is not None and age > 1
            game.play(running)
            assert {name for name, _ in PlayedGame("new").play(running).versions} == {ONE}
            other.execute("ROLLBACK")
        until(lambda: running.serves(TWO) and running.ready()["following"])
        game.play(running)
        assert {name for name, _ in game.versions} == {ONE}


def test_files_that_are_not_what_was_registered_are_refused(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "RETRY", 0.5)
    promote(place, 1)
    file = files_in_registry(registry.named(place, THREE)) / "adapter_model.safetensors"
    good = file.read_bytes()
    with serving(place) as running:
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        promote(place, 3)
        until(lambda: running.ready()["variants"]["b-fft"]["refused"])
        reason = running.ready()["variants"]["b-fft"]["refused"]
        assert f"{THREE}: its files hash to " in reason
        assert running.client.get("/ready").status_code == 200 and running.metric('refused{variant="b-fft"}') == 1
        assert {name for name, _ in PlayedGame("during").play(running).versions} == {ONE}
        file.write_bytes(good)  # restored
        until(lambda: running.serves(THREE))
        assert running.ready()["variants"]["b-fft"]["refused"] is None
    copy = registry.download(place, registry.named(place, THREE)) / "adapter_model.safetensors"
    copy.write_bytes(good + b"changed on this machine")
    with serving(place) as running:  # fetched again
        assert running.serves(THREE) and copy.read_bytes() == good


def test_a_store_that_comes_back_empty_is_no_rollback(place: Workspace) -> None:
    promote(place, 1)
    folder = place.root / "store" / "promotions"
    with serving(place) as running:
        folder.rename(folder.with_name("elsewhere"))
        told = "the ledger had 1 entries and has 0"  # a look in the midst of the renaming may be refused otherwise
        until(lambda: told in (running.ready()["variants"]["b-fft"]["refused"] or ""))
        assert running.serves(ONE)
        folder.with_name("elsewhere").rename(folder)
        until(lambda: running.ready()["variants"]["b-fft"]["refused"] is None)
        assert running.serves(ONE)


def test_an_idle_game_lets_its_version_go(place: Workspace) -> None:
    with serving(place, idle=3.0) as running:
        PlayedGame("left").play(running)
        old = weakref.ref(running.server.roster.deployed()["b-fft"])
        promote(place, 2)
        until(lambda: running.serves(TWO))
        until(lambda: old() is None)
        assert running.ready()["running_games"] == {}


def test_a_game_that_began_at_another_server_goes_on_with_its_version(place: Workspace) -> None:
    asked: list[tuple[str, str, str]] = []

    async def began_with(variant: str, game: str, version: str) -> str:
        asked.append((variant, game, version))
        if game == "nobody-knows":
            raise ConnectionError
        return ONE if game == "old" else version

    with serving(place, began_with=began_with) as running:
        old = PlayedGame("old").play(running, 2)
        assert {name for name, _ in old.versions} == {ONE}
        assert {name for name, _ in PlayedGame("new").play(running, 2).versions} == {SEED}
        assert asked == [("b-fft", "old", SEED), ("b-fft", "new", SEED)], "once a game"
        answer = running.act(PlayedGame("nobody-knows").request())
        assert answer.status_code == 503 and "began with" in answer.json()["reason"]
    ((first, second),) = by_hand(place, ONE, [old])
    assert [first[0], second[0]] == [reply["action"] for reply in old.replies]


def test_a_restarted_server_has_what_acted_last_where_the_registry_has_it_no_more(place: Workspace) -> None:
    promote(place, 3)
    with serving(place) as running:
        before = PlayedGame("before").play(running)
    registry.client(place).delete_model_version(MODEL, "3")
    with serving(place) as running:
        assert running.serves(THREE) and "not a registered version" in running.ready()["variants"]["b-fft"]["refused"]
        assert PlayedGame("after").play(running).versions == before.versions
    with closing(sqlite3.connect(place.root / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with serving(place) as running:
            assert running.serves(THREE) and not running.ready()["following"]
