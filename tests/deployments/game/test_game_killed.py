"""A server that is killed in the middle of games: what was acknowledged is there, and no game is there twice."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from game_servers import Killable, Player, rooms, version

from deployments.game.engine.rooms import Rooms
from respect_core.log.export import export
from respect_core.log.log import LOGS, read_logs
from respect_core.measuring.metrics import read_counts
from tasks.support.workspace import workspace

pytestmark = pytest.mark.timeout(900)
Said = dict[tuple[str, int], str]


async def _play_on(player: Player, number: int, acknowledged: Said) -> None:
    """Until the server is gone: every acknowledgement is remembered. The last games end before that."""
    try:
        while True:
            state = await player.state_where(phase="writing")
            text = f"player {number} turn {state['turn']}"
            await player.send(type="say", game=state["game"], turn=state["turn"], text=text)
            await player.hear("acknowledged")
            acknowledged[state["game"], state["turn"]] = text
            await player.state_where(turn=state["turn"] + 1)
            await asyncio.sleep(0.01 * (number % 7))
    except Exception as error:
        assert type(error).__name__ in ("ConnectionClosedError", "ConnectionClosedOK", "ConnectionResetError"), error


async def _until_killed(server: Killable, players: list[Player]) -> Said:
    """In the middle: of a game's ten turns, three are acknowledged on average."""
    acknowledged: Said = {}
    for player in players:
        await player.arrive()
        await player.connect()
        await player.start(variant="b-fft")
    playing = [asyncio.create_task(_play_on(player, n, acknowledged)) for n, player in enumerate(players)]
    while len(acknowledged) < 3 * len(players) and not all(each.done() for each in playing):
        await asyncio.sleep(0.005)
    server.kill()
    await asyncio.gather(*playing)
    return acknowledged


async def _to_the_end(players: list[Player]) -> None:
    """By the same cookies, on the next server."""

    async def end(player: Player) -> None:
        player.state = {}
        await player.connect()
        if (await player.http.get("/api/me")).json()["game"] is None:
            return await player.close()  # over, perhaps stored as well, before the first server was killed
        while (await player.state_where(partner_here=True))["phase"] != "over":
            if player.state["phase"] == "writing":
                await player.say(f"again {player.state['turn']}")
            await player.hear("state") if player.state["phase"] != "over" else None
        await player.close()

    await asyncio.gather(*(end(player) for player in players))


def _killed_and_finished(folder: Path, games: int) -> None:
    first = Killable(lambda: rooms(folder))
    players = [Player(first.port) for _ in range(games)]
    acknowledged: Said = {}

    async def play() -> None:
        acknowledged.update(await _until_killed(first, players))
        second = Killable(lambda: rooms(folder), first.port)
        await _to_the_end(players)
        await asyncio.sleep(0)
        second.stop()

    asyncio.run(play())
    Killable(lambda: rooms(folder)).stop()  # what a stopped server left is stored by the next, once
    store = workspace(folder).open()
    logs = [log for key in store.keys(f"{LOGS}/") for log in read_logs(store, key)]
    assert len({log.interaction_id for log in logs}) == len(logs) == games
    records = [json.loads(store.read(key)) for key in store.keys("games/")]
    assert len(records) == games
    said = {(record["game"], n): turn["utterance"] for record in records for n, turn in enumerate(record["turns"])}
    assert len(acknowledged) >= 3 * games
    assert {key: said.get(key) for key in acknowledged} == acknowledged
    assert {record["ended"] for record in records} <= {"won", "out_of_turns"}
    for record in records:
        assert len({turn["adapter_hash"] for turn in record["turns"]}) == 1


def test_a_server_killed_in_the_middle_of_games(tmp_path: Path) -> None:
    _killed_and_finished(tmp_path / "run", games=6)


@pytest.mark.slow
def test_a_server_killed_in_the_middle_of_fifty_games(tmp_path: Path) -> None:
    _killed_and_finished(tmp_path / "run", games=50)


def test_a_game_is_not_continued_by_another_version(tmp_path: Path) -> None:
    """Which was promoted while the server was away: the log would say that one had acted in all turns.

    Neither has lost it.
    """
    folder = tmp_path / "run"
    first = Killable(lambda: rooms(folder))

    def promoted() -> Rooms:
        made = rooms(folder, patience=3.0)  # with a version that does not come back
        made.listener.server.roster.deploy("b-fft", version("b-fft", 2))  # type: ignore[attr-defined]  # in process
        return made

    async def play() -> None:
        leaver = await _after_a_turn(first.port)
        await leaver.send(type="leave", game=leaver.state["game"])
        await leaver.state_where(phase="over")
        await leaver.close()
        player = await _after_a_turn(first.port)
        first.kill()
        second = Killable(promoted, first.port)
        player.state = {}
        await player.connect()
        await player.state_where(turn=1)
        await player.say("select B")
        assert (await player.state_where(phase="over"))["over"]["reason"] == "stopped"
        await player.close()
        second.stop()

    asyncio.run(play())
    store = workspace(folder).open()
    logs = [log for key in store.keys(f"{LOGS}/") for log in read_logs(store, key)]
    left, stopped = sorted(logs, key=lambda log: log.started_at)
    assert (len(stopped.turns), stopped.policy.version) == (1, "1")
    assert left.outcome is not None and not left.outcome.success and stopped.outcome is None
    records = {record["ended"]: record for record in (json.loads(store.read(key)) for key in store.keys("games/"))}
    assert records["stopped"]["targets"], "the record has them"
    assert export(store, 0).turns == 2, "both are learned from"
    assert read_counts(store, 0, "b-fft")[:, :2].tolist() == [[0, 1]], "one is lost"


async def _after_a_turn(port: int) -> Player:
    player = Player(port)
    await player.arrive()
    await player.connect()
    await player.start(variant="b-fft")
    await player.state_where(turn=0)
    await player.say("select A")
    await player.state_where(turn=1)
    return player


def test_study_players_and_lobby_are_as_they_were(tmp_path: Path) -> None:
    """Consent, caps and what was assigned outlive the server."""
    from pilots import study_of

    folder = tmp_path / "run"
    make = lambda: rooms(folder, study_of(folder, {"b-fft": 1, "t-fft": 1}, games_per_player=2))  # noqa: E731  # twice
    first = Killable(make)

    async def before() -> Player:
        player = Player(first.port)
        await player.arrive(study="pilot", participant="p1")
        await player.qualify()
        await player.connect()
        await player.start("study")
        await player.state_where(turn=0)
        await player.say("select A")
        return player

    async def after(player: Player) -> None:
        me = (await player.http.get("/api/me")).json()
        assert me["consented"] and me["quiz_passed"] and me["games_left"] == 1 and me["game"] == player.state["game"]
        await player.close()

    async def play() -> None:
        player = await before()
        first.kill()
        second = Killable(make, first.port)
        await after(player)
        second.stop()

    asyncio.run(play())
