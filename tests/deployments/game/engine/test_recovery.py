"""After a restart: what the journal says holds, whatever the clock does, and who has gone takes no place."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from game_servers import LOOSE, Player, player, rooms, serving, until
from pilots import participant, study_of

from deployments.game.durability.journal import Journal
from deployments.game.engine import recovery
from deployments.game.engine.settings import Limits
from deployments.game.web import operator
from deployments.game.web.app import create_app
from respect_core.log.user_key import KeyChangedError

pytestmark = pytest.mark.timeout(600)


def _journal(folder: Path, *events: dict[str, Any]) -> None:
    journal = Journal(folder / "game")
    for event in events:
        journal.submit(event).result(10)
    journal.close()


def _events(folder: Path) -> list[dict[str, Any]]:
    journal = Journal(folder / "game")
    found = list(journal.events())
    journal.close()
    return found


def test_moves_of_a_game_without_its_beginning_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    said = {"kind": "said", "game": "lost", "turn": 0, "text": "a secret"}
    _journal(tmp_path, said, {**said, "turn": 1})
    with caplog.at_level(logging.ERROR), serving(rooms(tmp_path)):
        pass
    (told,) = [each.message for each in caplog.records if "lacks its beginning" in each.message]
    assert "game lost" in told and "secret" not in caplog.text


def test_a_study_that_was_stopped_stays_so_with_a_clock_set_back(tmp_path: Path) -> None:
    """The files' own times play no part."""
    study = lambda: study_of(tmp_path, {"b-fft": 1})  # noqa: E731  # of each server its own
    for open_ in (False, True, False):
        with serving(rooms(tmp_path, study())) as running:
            running.call(operator.set_open(running.rooms, open_))
    for age, path in enumerate(sorted((tmp_path / "game").glob("*.jsonl"))):
        assert path.stem == f"{age + 1:08}"
    stopped = study()
    with serving(rooms(tmp_path, stopped)):
        assert not stopped.open


def test_who_played_before_the_restart_takes_no_table(tmp_path: Path) -> None:
    """Two tables, both played at to the end by players who are gone."""
    limits = Limits(LOOSE.messages, LOOSE.requests, LOOSE.arrivals, tables=2)

    async def one_game(port: int, *, end: bool) -> None:
        async with player(port) as one:
            await one.start(variant="b-fft")
            await one.state_where(phase="writing")
            if end:
                await one.send(type="leave", game=one.state["game"])
                await one.state_where(phase="over")

    with serving(rooms(tmp_path, limits=limits)) as running:
        for _ in range(3):  # more than there are tables: those that are over take none
            asyncio.run(one_game(running.port, end=True))
        until(lambda: not running.rooms.archiver.unstored)
    with serving(rooms(tmp_path, limits=limits)) as running:
        assert not running.rooms.tables
        asyncio.run(one_game(running.port, end=False))
        asyncio.run(one_game(running.port, end=True))


def test_a_large_journal_keeps_what_is_not_in_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts, payments and running games are as before; what was written in a game that is stored is gone."""
    study = lambda: study_of(tmp_path, {"b-fft": 1}, games_per_player=3)  # noqa: E731  # of each server its own

    async def before(port: int) -> None:
        one = await participant(port, 1)
        for end in (True, False):
            await one.start("study")
            await one.state_where(phase="writing")
            await one.say("the first bird" if end else "the second bird")
            if end:
                await one.send(type="leave", game=one.state["game"])
                await one.state_where(phase="over")
                one.state = {}
        await one.close()

    async def after(port: int) -> dict[str, Any]:
        one = Player(port)
        me = await one.arrive(study="pilot", participant="p1")
        await one.connect()
        state = await one.state_where(turn=1)
        assert state["turns"][0]["utterance"] == "the second bird"
        await one.close()
        return me

    with serving(rooms(tmp_path, paid := study())) as running:
        asyncio.run(before(running.port))
        until(lambda: not running.rooms.archiver.unstored)
    seen = []
    for large in (16 << 20, 1, 1):
        monkeypatch.setattr(recovery, "LARGE", large)
        with serving(rooms(tmp_path, again := study())) as running:
            seen.append(asyncio.run(after(running.port)))
            assert again.payments() == paid.payments()
        texts = [event.get("text") for event in _events(tmp_path)]
        assert ("the first bird" in texts) == (large > 1) and "the second bird" in texts
    assert seen[0] == seen[1] == seen[2] and seen[0]["games_left"] == 1


def test_practice_takes_no_place_of_the_games(tmp_path: Path) -> None:
    limits = Limits(LOOSE.messages, LOOSE.requests, LOOSE.arrivals, tables=1, practices=2)

    async def play(port: int) -> None:
        async with player(port) as one, player(port) as two, player(port) as three:
            for each in (one, two):
                await each.start(practice=True)
            full = await three.http.post("/api/games", json={"mode": "policy", "practice": True})
            assert full.status_code == 503
            await three.start(variant="b-fft")
            full = await one.http.post("/api/games", json={"mode": "policy", "variant": "b-fft"})
            assert full.status_code == 503

    with serving(rooms(tmp_path, limits=limits)) as running:
        asyncio.run(play(running.port))


def test_a_key_of_pseudonyms_that_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ids became pseudonyms; who came without one is the same under any key."""
    study = lambda: study_of(tmp_path, {"b-fft": 1}, anonymous=True)  # noqa: E731  # of each server its own

    async def consent(port: int, **arrival: Any) -> None:
        one = Player(port)
        await one.arrive(study="pilot", **arrival)
        await one.qualify()
        await one.close()

    monkeypatch.setenv("RESPECT_USER_KEY", "a" * 32)
    with serving(rooms(tmp_path, study())) as running:
        asyncio.run(consent(running.port))
    monkeypatch.setenv("RESPECT_USER_KEY", "b" * 32)
    with serving(rooms(tmp_path, study())) as running:
        asyncio.run(consent(running.port, participant="p1"))
    with serving(rooms(tmp_path, study())):
        pass
    for other in ("c" * 32, None):
        monkeypatch.setenv("RESPECT_USER_KEY", other) if other else monkeypatch.delenv("RESPECT_USER_KEY")
        game = rooms(tmp_path, study())
        with pytest.raises(KeyChangedError, match=r"RESPECT_USER_KEY is .* new run"):
            create_app(game)
        game.journal.close()
    assert "b" * 32 not in str(_events(tmp_path))


def test_health_tells_of_what_has_failed_and_begins_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    game = rooms(tmp_path)
    look, fails = game._look_at_clocks, [True]

    async def clocks() -> None:
        if fails[0]:
            raise KeyError("what a user wrote")
        await look()

    game.background._pause, game.background._settled = 0.05, 0.2
    monkeypatch.setattr(game, "_look_at_clocks", clocks)
    with serving(game) as running:
        health = lambda: httpx.get(f"http://127.0.0.1:{running.port}/health", timeout=60)  # noqa: E731
        until(lambda: health().status_code == 503)
        assert health().json() == {"status": "failing", "down": ["clocks"]}
        fails[0] = False
        until(lambda: health().status_code == 200)


def test_a_journal_whose_thread_has_ended_is_no_health(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    game = rooms(tmp_path)
    with serving(game) as running:
        game.journal._queue.put(None)
        game.journal._thread.join()
        answer = httpx.get(f"http://127.0.0.1:{running.port}/health", timeout=60)
        assert (answer.status_code, answer.json()["down"]) == (503, ["journal"])


def test_one_games_clock_that_fails_stops_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deployments.game.domain.table import Clocks

    game = rooms(tmp_path, clocks=Clocks(writing=0.5, grace=0.0))
    look = game._look_at

    async def looks(table: Any, now: float) -> None:
        if table.id == next(iter(game.tables)):  # the first to begin
            raise KeyError(table.id)
        await look(table, now)

    monkeypatch.setattr(game, "_look_at", looks)

    async def play(port: int) -> None:
        async with player(port) as one, player(port) as two:
            for each in (one, two):
                await each.start(variant="b-fft")
            await two.state_where(phase="over")

    with serving(game) as running:
        asyncio.run(play(running.port))
        assert not game.background.down


def test_a_game_that_cannot_be_stored_holds_up_no_other_and_is_tried_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from deployments.game.engine import archive

    store, poisoned, words = archive.store, set[str](), "what a user " + "wrote"

    def stores(place: Any, table: Any, users: Any) -> None:
        if not poisoned:
            poisoned.add(table.id)
        if table.id in poisoned:
            raise TypeError(words)
        store(place, table, users)

    async def a_game(port: int) -> None:
        async with player(port) as one:
            await one.start(variant="b-fft")
            await one.state_where(phase="writing")
            await one.say("select A")
            await one.send(type="leave", game=one.state["game"])
            await one.state_where(phase="over")

    monkeypatch.setattr(archive, "store", stores)
    with serving(rooms(tmp_path)) as running:
        for _ in range(2):
            asyncio.run(a_game(running.port))
        until(lambda: not running.rooms.archiver.unstored)
        assert running.rooms.archiver.set_aside == poisoned
        assert httpx.get(f"http://127.0.0.1:{running.port}/health", timeout=60).status_code == 200
        metrics = httpx.get(f"http://127.0.0.1:{running.port}/metrics", timeout=60).text
        assert 'respect_game_now{of="set_aside"} 1.0' in metrics
        place = running.rooms.workspace.open()
        assert len(place.keys("games/")) == 1
    assert "a user wrote" not in caplog.text
    monkeypatch.setattr(archive, "store", store)
    with serving(rooms(tmp_path)) as running:
        until(lambda: len(place.keys("games/")) == 2)


def test_an_answer_that_cannot_be_stops_its_game_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An illegal one, e.g. of a policy server of another release."""
    game = rooms(tmp_path)
    act = game.listener.act

    async def acts(table: Any) -> Any:
        reply = await act(table)
        return type(reply)("deselect A", reply.probability, reply.version, reply.adapter_hash)

    monkeypatch.setattr(game.listener, "act", acts)

    async def play(port: int) -> None:
        async with player(port) as one:
            await one.start(variant="b-fft")
            await one.state_where(phase="writing")
            await one.say("select A")
            assert (await one.state_where(phase="over"))["over"]["reason"] == "stopped"

    with serving(game) as running:
        asyncio.run(play(running.port))


@pytest.mark.parametrize(("policies", "needs"), [(None, True), ({"b-fft": 1, "hh": 1}, True), ({"hh": 1}, False)])
def test_ready_once_a_policy_can_act_where_one_is_needed(
    tmp_path: Path, policies: dict[str, int] | None, needs: bool
) -> None:
    game = rooms(tmp_path, study_of(tmp_path, policies) if policies else None)
    roster = game.listener.server.roster  # type: ignore[attr-defined]  # in process
    deployed, roster._offers = roster.deployed(), {}
    with serving(game) as running:
        address = f"http://127.0.0.1:{running.port}"
        ready = httpx.get(f"{address}/ready", timeout=60)
        assert ready.status_code == (503 if needs else 200)
        assert httpx.get(f"{address}/health", timeout=60).status_code == 200
        for variant, version in deployed.items():
            roster.deploy(variant, version)
        assert httpx.get(f"{address}/ready", timeout=60).json() == {"ready": True, "lacking": []}
