"""Games over real sockets against a real server: with a policy, between people, and whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from game_servers import Running, player, rooms, serving, until

from respect_core.interaction_log import LOGS, read_logs

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with serving(rooms(tmp_path / "run")) as server:
        yield server


def _logs(running: Running) -> list:
    until(lambda: not running.rooms.archiver.unstored)
    store = running.rooms.workspace.open()
    return [log for key in store.keys(f"{LOGS}/") for log in read_logs(store, key)]


def test_a_game_with_a_policy_is_played_to_the_end_and_logged(running: Running) -> None:
    async def play() -> None:
        async with player(running.port) as speaker:
            await speaker.start(variant="b-fft")
            await speaker.state_where(phase="writing", turn=0)
            for turn in range(10):
                await speaker.say(f"turn {turn}: select A" if turn else "select A")
                await speaker.state_where(phase="writing" if turn < 9 else "over", turn=min(turn + 1, 9))
                if speaker.state["phase"] == "over":
                    break
            assert speaker.state["over"]["reason"] in ("won", "out_of_turns")

    asyncio.run(play())
    (log,) = _logs(running)
    assert log.variant == "b-fft" and log.turns[0].action == "select A" and log.turns[0].probability == 0.5
