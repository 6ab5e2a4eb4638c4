"""Free play while the registry is away: the rounds that are known hold, and nobody who waits is lost."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from game_servers import Player, player, rooms, serving, until
from mlflow_server import MlflowServer

from deployments.serving import rounds
from respect_core.variants import HH
from tasks.registry import registry
from tasks.support.workspace import Workspace, workspace

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    """Not started yet; asked each time."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        made = MlflowServer(tmp_path, free.getsockname()[1])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(rounds, "_VALID_SECONDS", 0.0)
    monkeypatch.setattr(rounds, "_RETRY_SECONDS", 0.0)
    yield made
    made.kill()


def _register(place: Workspace, round: int, folder: Path) -> None:
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    run_id = registry.start_run(place, "round")
    registry.register_adapter(place, run_id, "b-fft", folder, tags={"round": round}, metrics={}, step=0)


def test_games_begin_in_the_rounds_that_are_known(
    mlflow: MlflowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(port: int) -> list[str]:
        games = []
        async with player(port) as early, player(port) as late:
            await early.agree()
            for wish in ({"mode": "policy", "variant": "b-fft"}, {"mode": "people"}):
                refused = await early.http.post("/api/games", json=wish)
                assert refused.status_code == 503 and "registry" in refused.json()["reason"]
            assert not (await early.http.get("/api/me")).json()["in_lobby"]
            await asyncio.to_thread(mlflow.start)
            await asyncio.to_thread(_register, workspace(tmp_path / "run"), 4, tmp_path / "adapter")
            games.append(await early.start(variant="b-fft"))
            one, two = Player(port), Player(port)
            for each in (one, two):
                await each.arrive()
                await each.connect()
            assert await one.start("people") == {"lobby": True}
            await asyncio.to_thread(mlflow.kill)
            games += [await late.start(variant="b-fft"), await two.start("people")]
            await one.hear("state")
            for each in (one, two):
                await each.close()
        return [game["game"] for game in games]

    with serving(rooms(tmp_path / "run", round=None)) as running, caplog.at_level(logging.INFO):
        games = asyncio.run(play(running.port))
        assert [running.rooms.tables[game].round for game in games] == [5, 5, 5]
    assert [record.message for record in caplog.records if "registry is" in record.message] == [
        "the registry is unreachable (MlflowException); games continue in the rounds known",
        "the registry is reachable again",
        "the registry is unreachable (MlflowException); games continue in the rounds known",
    ]


def test_who_waits_for_a_person_while_the_registry_hangs_sits_in_one_game(
    mlflow: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = rounds.Rounds.next

    async def noted(self: rounds.Rounds, policy: str) -> int:
        asked.append(policy)
        return await ask(self, policy)

    monkeypatch.setattr(rounds.Rounds, "next", noted)

    async def play(port: int) -> None:
        async with player(port) as first, player(port) as second:
            assert await first.start("people") == {"lobby": True}
            mlflow.hang()
            wants = asyncio.create_task(second.start("people"))
            await asyncio.to_thread(until, lambda: asked == [HH, HH])
            instead = asyncio.create_task(first.start(variant="b-fft"))
            await asyncio.to_thread(until, lambda: asked == [HH, HH, "b-fft"])
            mlflow.go_on()
            assert "game" in await instead
            assert await wants == {"lobby": True}

    mlflow.start()
    with serving(rooms(tmp_path / "run", round=None)) as running:
        asyncio.run(play(running.port))
        assert len(running.rooms.tables) == 1
