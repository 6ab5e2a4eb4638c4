"""A game with the real tiny model behind it, in a real registry, which is promoted in the middle of play."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from game_servers import LOOSE, Player, player, serving, until
from pilots import participant, study_of

from deployments.game.__main__ import listener
from deployments.game.durability.journal import Journal
from deployments.game.engine.listener import InProcess
from deployments.game.engine.rooms import Rooms
from deployments.game.engine.settings import Settings
from deployments.serving.base import Settings as Serving
from deployments.serving.server import PolicyServer
from respect_core.acting import served_turns
from respect_core.log.log import LOGS, read_logs
from respect_core.release import ledger
from tasks.support.workspace import Workspace
from tests.deployments.policy_servers import MODEL, SEED, begin_canary, promote, registered
from tests.deployments.policy_servers import serving as policies_served

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def registered_place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return registered(tmp_path_factory.mktemp("game-with-a-model"))


@pytest.fixture
def place(registered_place: Workspace, tmp_path: Path) -> Workspace:
    """That registry, and a run with a store of its own, where nothing was promoted or played."""
    root = tmp_path / "runs" / "main"
    shutil.copytree(registered_place.store_uri, root / "store")
    return registered_place.model_copy(update={"root": root, "store_uri": str(root / "store")})


def _rooms(place: Workspace) -> Rooms:
    acting = InProcess(PolicyServer(place, Serving(variants=("b-fft",), every=0.2, flush=3600.0)))
    return Rooms(place, Settings(limits=LOOSE, tick=0.05), acting, None, Journal(place.root / "game"))


async def _ends(player: Player) -> None:
    """Have the player say one thing more, and leave."""
    await player.state_where(phase="writing")
    turn = player.state["turn"]
    await player.say("no, the boat")
    await player.state_where(turn=turn + 1, phase="writing")
    await player.send(type="leave", game=player.state["game"])
    await player.state_where(phase="over")


def test_games_keep_their_version_and_the_log_agrees_with_what_was_served(place: Workspace) -> None:
    game = _rooms(place)

    async def play(port: int) -> None:
        async with player(port) as old, player(port) as new:
            await old.start()
            await old.state_where(phase="writing")
            await old.say("the bird")
            await old.state_where(turn=1, phase="writing")
            promote(place, 2)
            await asyncio.to_thread(until, lambda: game.listener.ready()["b-fft"] == f"{MODEL}/2")
            await new.start()
            for each in (old, new):
                await _ends(each)

    with serving(game) as running:
        until(game.listener.ready)
        asyncio.run(play(running.port))
    store = place.open()
    logs = {log.interaction_id: log for key in store.keys(f"{LOGS}/") for log in read_logs(store, key)}
    assert sorted(f"{log.policy.name}/{log.policy.version}" for log in logs.values()) == [f"{MODEL}/2", SEED]
    served = list(served_turns.read(store))
    assert len(served) == sum(len(log.turns) for log in logs.values()) == 3
    for turn in served:
        (log,) = [log for name, log in logs.items() if name.endswith(turn.game)]
        assert (turn.adapter_hash, turn.action) == (log.policy.adapter_hash, log.turns[turn.turn].action)
        assert turn.probability == log.turns[turn.turn].probability
    assert {log.round for log in logs.values()} == {4}, "one more than the newest of b-fft in this registry"


def test_of_a_canary_the_game_gives_new_games_to_the_candidate_as_chance_says(place: Workspace) -> None:
    game = _rooms(place)

    async def play(port: int) -> None:
        async with player(port) as old, player(port) as one, player(port) as two, player(port) as three:
            await old.start()
            await old.state_where(phase="writing")
            await old.say("the bird")
            await old.state_where(turn=1, phase="writing")
            begin_canary(place, 2)
            await asyncio.to_thread(until, lambda: "canary_share{" in game.listener.prometheus().decode())
            assert game.listener.ready()["b-fft"] == SEED
            for each in (one, two, three):
                await each.start()
            for each in (old, one, two, three):
                await _ends(each)

    with serving(game) as running:
        until(game.listener.ready)
        asyncio.run(play(running.port))
    canary = ledger.entries(place.open(), MODEL)[-1].canary
    assert canary is not None
    logs = [log for key in place.open().keys(f"{LOGS}/") for log in read_logs(place.open(), key)]
    assert len(logs) == 4
    for log in logs:
        chosen = len(log.turns) == 1 and canary.chosen(log.interaction_id.rpartition("-")[2])
        assert f"{log.policy.name}/{log.policy.version}" == (f"{MODEL}/2" if chosen else SEED)


def test_a_game_keeps_its_version_through_a_restart_with_another_promoted(place: Workspace) -> None:

    async def turn(one: Player, port: int) -> None:
        one.port, one.origin, one.state = port, f"http://127.0.0.1:{port}", {}
        await one.connect()
        await one.state_where(phase="writing")
        number = one.state["turn"]
        await one.say("the bird")
        await one.state_where(turn=number + 1, phase="writing")
        await one.socket.close()

    async def begin(port: int) -> Player:
        one = Player(port)
        await one.arrive()
        await one.start()
        await turn(one, port)
        return one

    with serving(first := _rooms(place)) as running:
        until(first.listener.ready)
        one = running.call(begin(running.port))
    promote(place, 2)
    with serving(second := _rooms(place)) as running:
        until(lambda: second.listener.ready().get("b-fft") == f"{MODEL}/2")
        asyncio.run(turn(one, running.port))
        (table,) = second.tables.values()
        assert [version for version, _ in table.acted_by] == [SEED, SEED]
        assert {adapter for _, adapter in table.acted_by} == {first.tables[table.id].acted_by[0][1]}


def test_a_study_meets_control_on_a_policy_server_too(place: Workspace, tmp_path: Path) -> None:
    """`respect play --study FILE --policies URL`: control is the seed policy beside what was promoted."""
    promote(place, 2)
    study = study_of(tmp_path / "runs" / "main", {"b-fft": 1, "control": 1}, games=1)

    async def play(port: int) -> None:
        for number in range(2):
            one = await participant(port, number)
            await one.start("study")
            await one.state_where(phase="writing")
            await one.say("the bird")
            await one.state_where(turn=1)
            await one.close()

    with policies_served(place, variants=("b-fft", "control")) as policies:
        there = listener(place, str(policies.client.base_url), study, "")
        game = Rooms(place, Settings(limits=LOOSE, tick=0.05), there, study, Journal(place.root / "game"))
        with serving(game) as running:
            until(lambda: len(there.ready()) == 2)
            asyncio.run(play(running.port))
        acted = {table.policy: {version for version, _ in table.acted_by} for table in game.tables.values()}
    assert acted == {"b-fft": {f"{MODEL}/2"}, "control": {SEED}}


def test_policies_of_a_study_that_a_policy_server_lacks_are_said(
    place: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = study_of(tmp_path / "run", {"b-fft": 1, "control": 1, "hh": 1}, games=1)

    async def look(url: str) -> None:
        there = listener(place, url, study, "")
        there.start()
        await asyncio.to_thread(until, lambda: "policy server" in caplog.text)
        await there.close()

    with policies_served(place) as policies:
        asyncio.run(look(url := str(policies.client.base_url)))
    assert "the policy server does not serve, control:" in caplog.text
    caplog.clear()
    asyncio.run(look(url))
    assert "the policy server does not answer" in caplog.text
