"""Games over real sockets against a real server: with a policy, between people, and whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import websockets
from game_servers import PATIENT, Clock, Player, Running, player, policy_server, port_of, rooms, serving, until, version

from deployments.game.domain.consent import CONSENT
from deployments.game.engine.listener import Remote
from deployments.serving import api as serving_api
from respect_core.log.log import LOGS, read_logs
from respect_core.log.pseudonyms import pseudonym
from respect_core.log.records import InteractionLog

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(rooms(tmp_path_factory.mktemp("game"))) as server:
        yield server


def _log(running: Running, game: str) -> InteractionLog:
    """Of a game that is over; there is one."""
    until(lambda: game not in running.rooms.archiver.unstored)
    store = running.rooms.workspace.open()
    logs = [log for key in store.keys(f"{LOGS}/") for log in read_logs(store, key)]
    (found,) = [log for log in logs if log.interaction_id.endswith(game)]
    return found


def _record(running: Running, game: str) -> dict[str, Any]:
    """All that the store has of a game that is over."""
    until(lambda: game not in running.rooms.archiver.unstored)
    store = running.rooms.workspace.open()
    (key,) = [key for key in store.keys("games/") if game in key]
    found: dict[str, Any] = json.loads(store.read(key))
    return found


def _targets(state: dict[str, Any], running: Running) -> str:
    return running.rooms.tables[state["game"]].context.target_letters


async def _people(port: int) -> tuple[Player, Player]:
    """Two people in one game: who speaks, and who listens."""
    one, two = Player(port), Player(port)
    for each in (one, two):
        await each.arrive()
        await each.connect()
    assert await one.start("people") == {"lobby": True}
    await one.hear("lobby")
    assert "game" in await two.start("people")
    await one.hear("state")
    await two.hear("state")
    return (one, two) if one.state["role"] == "speaker" else (two, one)


def test_a_game_with_a_policy_is_won_and_logged(running: Running) -> None:
    async def play() -> dict[str, Any]:
        async with player(running.port, participant="worker-7") as speaker:
            await speaker.start(variant="b-fft")
            state = await speaker.state_where(phase="writing", turn=0)
            framed = [image["image"] for image in state["images"] if image["target"]]
            assert len(framed) in (3, 4, 5) and {image["letter"] for image in state["images"]} == {None}
            targets = _targets(state, running)
            wrong = next(letter for letter in "ABCDEFGHIJ" if letter not in targets)
            await speaker.say(f"select {wrong}")
            state = await speaker.state_where(turn=1, phase="writing")
            assert [image["mark"] for image in state["images"] if image["selected"]] == ["wrong"]
            await speaker.say(f"deselect {wrong} select {' '.join(targets)}")
            await speaker.state_where(phase="over")
            assert {image["image"] for image in speaker.state["images"] if image["mark"] == "right"} == set(framed)
            return speaker.state

    state = asyncio.run(play())
    assert state["over"] == {"success": True, "reason": "won", "by": None}
    log = _log(running, state["game"])
    assert log.variant == "b-fft" and log.round == 0 and log.outcome is not None and log.outcome.success
    assert [turn.probability for turn in log.turns] == [0.5, 0.5] and all(
        turn.seconds is not None for turn in log.turns
    )
    acted = version("b-fft")
    assert (f"{log.policy.name}/{log.policy.version}", log.policy.adapter_hash) == (acted.name, acted.adapter_hash)
    assert log.user == pseudonym("worker-7")
    written = b"".join(path.read_bytes() for path in running.rooms.workspace.root.rglob("*.jsonl"))
    assert b"worker-7" not in written


def test_people_play_to_the_end_and_one_is_lost_on_the_way(running: Running) -> None:
    async def play() -> dict[str, Any]:
        speaker, listener = await _people(running.port)
        for turn in range(10):
            await speaker.state_where(phase="writing", turn=turn)
            if turn == 3:  # the connection breaks without a word, right behind what was said
                await speaker.send(type="say", game=speaker.state["game"], turn=turn, text=f"the {turn}th")
                speaker.socket.transport.abort()
                await listener.state_where(partner_here=False)
                await speaker.connect()
                await speaker.state_where(turn=turn)
                await speaker.say(f"the {turn}th", turn)  # not known to be there: sent again
            else:
                await speaker.say(f"the {turn}th")
            await listener.state_where(phase="acting", turn=turn)
            assert listener.state["turns"][-1]["utterance"] == f"the {turn}th"
            change = {"select": "A", "deselect": ""} if turn % 2 == 0 else {"select": "", "deselect": "A"}
            await listener.send(type="act", game=listener.state["game"], turn=turn, **change)
            await listener.hear("acknowledged")
        await speaker.state_where(phase="over")
        await listener.state_where(phase="over")
        heard = json.dumps(listener.heard)
        assert "target" not in heard and "mark" not in heard
        await speaker.close()
        await listener.close()
        return listener.state

    state = asyncio.run(play())
    assert state["over"]["reason"] == "out_of_turns"
    log = _log(running, state["game"])
    assert log.variant == "hh" and log.policy.name == "human" and len(log.turns) == 10
    assert [turn.utterance for turn in log.turns] == [f"the {turn}th" for turn in range(10)]
    assert len(_record(running, state["game"])["users"]) == 2


def test_a_second_tab_takes_the_seat_over(running: Running) -> None:
    async def play() -> None:
        async with player(running.port) as first:
            await first.start()
            await first.say("select A", 0) if await first.state_where(turn=0) else None
            second = Player(running.port)
            second.http.cookies = first.http.cookies
            await second.connect()
            await first.hear("elsewhere")
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await first.hear("state")
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 4001
            await second.state_where(turn=1, phase="writing")
            await second.say("select B")
            again = await second.http.post("/api/games", json={"mode": "policy"})
            assert again.status_code == 409 and again.json()["game"] == second.state["game"]
            await second.send(type="leave", game=second.state["game"])
            await second.state_where(phase="over")
            assert second.state["over"] == {"success": False, "reason": "left", "by": "you"}
            await second.close()

    asyncio.run(play())


def test_who_idles_ends_the_game_which_is_logged_as_far_as_it_went(tmp_path: Path) -> None:
    clock = Clock()

    async def play(port: int) -> tuple[dict[str, Any], dict[str, Any]]:
        speaker, listener = await _people(port)
        await speaker.say("one")
        await listener.state_where(phase="acting")
        await listener.send(type="act", game=listener.state["game"], turn=0, select="AB", deselect="")
        await speaker.state_where(phase="writing", turn=1)
        await speaker.say("two")
        clock.skip(PATIENT.acting + PATIENT.grace)
        await listener.state_where(phase="over")
        await speaker.state_where(phase="over")
        await speaker.close()
        late = Player(port)  # who comes back learns how it ended
        late.http.cookies = listener.http.cookies
        await listener.close()
        await late.connect()
        await late.state_where(phase="over")
        await late.close()
        return speaker.state, late.state

    with serving(rooms(tmp_path / "run", clock=clock, clocks=PATIENT)) as running:
        speaker, listener = asyncio.run(play(running.port))
        assert speaker["over"] == {"success": False, "reason": "idle", "by": "partner"}
        assert listener["over"]["by"] == "you"
        log = _log(running, speaker["game"])
        assert [turn.utterance for turn in log.turns] == ["one"] and log.outcome and not log.outcome.success
        record = _record(running, speaker["game"])
        assert record["ended"] == "idle" and record["by"] == "listener"
        assert [turn["utterance"] for turn in record["turns"]] == ["one", "two"], "nothing that was said is lost"


def test_promotion_during_play(running: Running) -> None:
    """A game that runs keeps its version, and the log names the one that acted."""

    async def play() -> list[str]:
        async with player(running.port) as old, player(running.port) as new:
            await old.start(variant="t-fft")
            await old.state_where(turn=0)
            await old.say("select A")
            await old.state_where(turn=1, phase="writing")
            running.rooms.listener.server.roster.deploy("t-fft", version("t-fft", 2))  # type: ignore[attr-defined]  # in process
            await new.start(variant="t-fft")
            for each in (new, old):
                await each.state_where(phase="writing")
                await each.say("select B")
                await each.state_where(turn=each.state["turn"] + 1, phase="writing")
                await each.send(type="leave", game=each.state["game"])
                await each.state_where(phase="over")
            return [old.state["game"], new.state["game"]]

    for game, number in zip(asyncio.run(play()), (1, 2), strict=True):
        acted = version("t-fft", number)
        assert _log(running, game).policy.adapter_hash == acted.adapter_hash
        assert {turn["adapter_hash"] for turn in _record(running, game)["turns"]} == {acted.adapter_hash}


def test_practice_is_won_without_a_policy_and_not_logged(running: Running) -> None:
    async def play() -> str:
        async with player(running.port) as one:
            await one.start(practice=True)
            while (await one.state_where())["phase"] != "over":
                if one.state["phase"] == "writing":
                    await one.say("the next one")  # said twice where the state is not here yet, and done once
                else:
                    await one.hear("state")
            assert one.state["practice"] and one.state["over"]["success"]
            assert (await one.http.post("/api/practised", json={})).json()["practised"]
            return str(one.state["game"])

    game = asyncio.run(play())
    assert not [key for key in running.rooms.workspace.open().keys("") if game in key]


def test_a_policy_that_does_not_answer_ends_the_game_through_nobodys_fault(tmp_path: Path) -> None:
    game = rooms(tmp_path / "run", patience=0.5)

    async def play(port: int) -> dict[str, Any]:
        async with player(port) as one:
            await one.start(variant="b-fft")
            await one.state_where(turn=0)
            await one.say("the bird")
            return await one.state_where(phase="over")

    with serving(game) as running:
        game.listener.server.roster._offers.clear()  # type: ignore[attr-defined]  # as if nothing could be loaded
        game.listener.ready = lambda: {"b-fft": "one that is gone"}  # type: ignore[method-assign]
        assert asyncio.run(play(running.port))["over"] == {"success": False, "reason": "stopped", "by": None}


def test_policies_on_a_server_elsewhere(tmp_path: Path) -> None:
    """`--policies URL`: the same game, over HTTP."""
    here = rooms(tmp_path / "run")
    elsewhere = policy_server(here.workspace)
    http = uvicorn.Server(uvicorn.Config(serving_api.create_app(elsewhere), port=0, log_level="warning"))
    thread = threading.Thread(target=http.run)
    thread.start()
    until(lambda: http.started)
    here.listener = Remote(f"http://127.0.0.1:{port_of(http)}", every=0.1)

    async def play(port: int) -> None:
        async with player(port) as one:
            while not (await one.http.get("/api/me")).json()["policies"]:
                await asyncio.sleep(0.05)
            await one.start(variant="b-fft")
            await one.state_where(turn=0)
            await one.say("select A")
            state = await one.state_where(turn=1)
            assert len(state["turns"][0]["selected"]) == 1
            assert elsewhere.readiness().running_games == {version("b-fft").name: 1}
            await one.send(type="leave", game=state["game"])
            await one.state_where(phase="over")

    try:
        with serving(here) as running:
            asyncio.run(play(running.port))
            until(lambda: not elsewhere.readiness().running_games)
    finally:
        http.should_exit = True
        thread.join()


def test_a_full_disk_refuses_and_the_game_goes_on_once_there_is_room(running: Running) -> None:
    journal = running.rooms.journal

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    async def play() -> None:
        async with player(running.port) as one:
            await one.start(variant="b-fft")
            await one.state_where(turn=0)
            sync, journal._sync = journal._sync, full
            await one.send(type="say", game=one.state["game"], turn=0, text="select A")
            refused = await one.hear("refused")
            assert "send it again" in refused["reason"]
            assert (await one.http.post("/api/consent", json={"agrees": True, "text": CONSENT})).status_code == 503
            journal._sync = sync
            await one.say("select A", 0)
            await one.state_where(turn=1)

    asyncio.run(play())


def test_who_waits_goes_on_waiting_where_a_game_cannot_begin(tmp_path: Path) -> None:
    """With the disk full, or the store away."""
    game = rooms(tmp_path / "run")
    journal, store = game.journal, tmp_path / "run" / "store"

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    async def play(port: int) -> None:
        async with player(port) as first, player(port) as second:
            assert await first.start("people") == {"lobby": True}
            await second.agree()
            for _ in range(2):
                sync, journal._sync = journal._sync, full
                assert (await second.http.post("/api/games", json={"mode": "people"})).status_code == 503
                assert (await first.http.post("/api/games", json={"mode": "policy"})).status_code == 503
                journal._sync = sync
                store.rename(tmp_path / "away")
                store.write_text("no folder")
                assert (await second.http.post("/api/games", json={"mode": "people"})).status_code == 503
                assert (await first.http.post("/api/games", json={"mode": "policy"})).status_code == 503
                store.unlink()
                (tmp_path / "away").rename(store)
                assert (await first.http.get("/api/me")).json()["in_lobby"]
            assert "game" in await second.start("people")
            await first.hear("state")

    with serving(game) as running:
        asyncio.run(play(running.port))
