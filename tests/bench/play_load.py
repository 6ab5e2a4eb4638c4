"""The game under load: 200 people at once over real WebSockets, who play an hour's turns in a few minutes.

The server is a process of its own, with a policy that takes no time, so that what is measured is the server's. The
people are this process, which measures from a move to its acknowledgement: journal, disk, and both ways of the loopback
are in it, and so is what this process keeps itself waiting. Each turn that was acknowledged is looked up in the store
afterwards, and each game must be there once.

`python -m tests.bench.play_load FOLDER` is the server.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from respect_core.log.log import LOGS, read_logs
from respect_core.store.open import open_store
from tests.bench.record import Record, case, versions
from tests.deployments.game import game_servers

BAR = 0.1  # seconds, the 99th percentile
PEOPLE = 200
SECONDS_PER_TURN = 120 / 7.3  # of a game between a person and a policy (appendix A.3, section 5)
HOUR = round(PEOPLE * 3600 / SECONDS_PER_TURN)  # turns


@dataclass
class Load:
    """What the people saw."""

    acknowledged: dict[tuple[str, int], str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)  # from a move to its acknowledgement
    answered: list[float] = field(default_factory=list)  # from a move to the policy's action on the screen
    memory: list[float] = field(default_factory=list)  # of the server, MiB


@case("play-load")
def play_load(quick: bool) -> Iterator[Record]:
    if not quick:  # minutes; tests/deployments/game plays with fewer people
        yield measure(PEOPLE, HOUR, faster=15.0)


def measure(people: int, turns: int, faster: float) -> Record:
    """So many turns by so many people, who think so many times faster than people do."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.bench.play_load", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            began = time.monotonic()
            try:
                load = asyncio.run(_load(port, server.pid, people, turns, SECONDS_PER_TURN / faster))
                own = own_time(httpx.get(f"http://127.0.0.1:{port}/metrics").text)
            finally:
                server.terminate()
        took = time.monotonic() - began
        games = _checked(Path(folder), load)
    return _record(load, own, people, games, took, faster)


def own_time(metrics: str) -> dict[str, float]:
    """Seconds that the server took, for 99% of the moves of each kind: the bound of the histogram's bucket."""
    seconds: dict[str, float] = {}
    moves: dict[str, list[tuple[float, float]]] = {}  # the bound of a bucket, and the moves up to it
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if sample.name == "respect_game_seconds_bucket":
                moves.setdefault(sample.labels["move"], []).append((float(sample.labels["le"]), sample.value))
    for move, buckets in moves.items():
        seconds[move] = next(bound for bound, count in buckets if count >= 0.99 * buckets[-1][1])
    return seconds


def _record(load: Load, own: dict[str, float], people: int, games: int, took: float, faster: float) -> Record:
    p50, p99, most = (_percentile(load.seconds, share) * 1000 for share in (0.5, 0.99, 1.0))
    quarter = load.memory[len(load.memory) // 4]
    return Record(
        case="play-load",
        size=f"{people} people",
        turns_per_game=None,
        ours=len(load.seconds) / took,
        peer=None,
        peer_name=f"none: move to acknowledgement {p50:.1f} ms at the median, {p99:.1f} at 99%, {most:.0f} at most",
        unit="turns/s",
        ratio=BAR * 1000 / p99,
        bar=1.0,
        tokens_ours=None,
        tokens_peer=None,
        flops_ours=None,
        flops_peer=None,
        seconds_ours=took,
        seconds_peer=None,
        repeats=1,
        spread=None,
        equality=(
            f"the server's own time at 99%: {', '.join(f'{move} <= {s * 1000:g} ms' for move, s in own.items())}; "
            f"all {len(load.acknowledged)} acknowledged turns of {games} games in the store, each game once; people "
            f"{faster:g} times faster; answer on the screen after {_percentile(load.answered, 0.99) * 1000:.0f} ms at "
            f"99%; server's memory {quarter:.0f} MiB after a quarter, {load.memory[-1]:.0f} at the end"
        ),
        versions=versions("fastapi", "uvicorn", "websockets"),
    )


async def _load(port: int, pid: int, people: int, turns: int, pause: float) -> Load:
    gc.collect()
    gc.freeze()  # as the server does: what is measured here is not this process
    load, left = Load(), [turns]
    watching = asyncio.create_task(_watch(pid, load))
    players = [game_servers.Player(port) for _ in range(people)]
    await asyncio.gather(*(_play(player, number, load, left, pause) for number, player in enumerate(players)))
    watching.cancel()
    load.memory.append(_memory(pid))
    return load


async def _play(player: game_servers.Player, number: int, load: Load, left: list[int], pause: float) -> None:
    """One person, game after game, until all turns are played; the last game is played to its end."""
    rng = random.Random(number)
    await player.arrive()
    await asyncio.sleep(rng.random() * pause * 4)
    await player.connect()
    while left[0] > 0:
        game = (await player.start(variant="b-fft"))["game"]
        await player.state_where(game=game, phase="writing", turn=0)
        while player.state["phase"] != "over":
            await asyncio.sleep(rng.uniform(0.2, 1.8) * pause)
            await _turn(player, game, rng, load, left)
    await player.close()


async def _turn(player: game_servers.Player, game: str, rng: random.Random, load: Load, left: list[int]) -> None:
    """A turn. Games have 7 or so: from the sixth on, every other one is the last."""
    turn, missing = player.state["turn"], [image for image in player.state["images"] if image["target"]]
    text = f"turn {turn} of {game}: one of {len(missing)}, the {rng.choice(['bird', 'boat', 'man', 'house'])}"
    if turn >= 5 and rng.random() < 0.5:
        await player.send(type="leave", game=game)
        await player.state_where(game=game, phase="over")
        return
    began = time.perf_counter()
    await player.say(text, turn)
    load.seconds.append(time.perf_counter() - began)
    load.acknowledged[game, turn] = text
    left[0] -= 1
    while player.state["phase"] == "acting" or (player.state["phase"] == "writing" and player.state["turn"] == turn):
        await player.hear("state")
    load.answered.append(time.perf_counter() - began)
    player.heard.clear()


async def _watch(pid: int, load: Load) -> None:
    while True:
        load.memory.append(_memory(pid))
        await asyncio.sleep(2.0)


def _memory(pid: int) -> float:
    """Resident, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def _checked(folder: Path, load: Load) -> int:
    """The number of games. Raises AssertionError where a turn was lost, or a game is there twice."""
    store = open_store(str(folder / "store"))
    records: list[dict[str, Any]] = [json.loads(store.read(key)) for key in store.keys("games/")]
    said = {(each["game"], n): turn["utterance"] for each in records for n, turn in enumerate(each["turns"])}
    lost = [key for key, text in load.acknowledged.items() if said.get(key) != text]
    assert not lost, f"{len(lost)} acknowledged turns are not in the store"
    logs = [log.interaction_id for key in store.keys(f"{LOGS}/") for log in read_logs(store, key)]
    assert len(set(logs)) == len(logs) == len(records), f"{len(records)} games and {len(logs)} logs"
    return len(records)


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def serve(folder: Path) -> None:
    """The server of one measurement; prints its port."""
    http = game_servers.server(game_servers.rooms(folder, tick=0.25))

    async def run() -> None:
        serving = asyncio.ensure_future(http.serve())
        while not http.started:
            await asyncio.sleep(0.05)
        print(game_servers.port_of(http), flush=True)
        await serving

    asyncio.run(run())


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
