"""Measure serving in turns per second: 32 games at once over HTTP, in shared passes with kept keys and values.

The peer is the same server, which answers each turn by itself and keeps nothing. Both sides draw with the same seed, so
that they must play the same games to the last action, sampling included.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from pydantic import TypeAdapter

from deployments.serving.api import create_app
from deployments.serving.base import Settings
from deployments.serving.server import PolicyServer
from flows.support.environment import prepare
from respect_core.model.base import adapter_hash, attach_lora, save_adapter
from respect_core.profiles import Profile, tiny
from respect_core.scenarios.multiref import world
from respect_core.scenarios.multiref.contexts import GameContext
from respect_core.scenarios.multiref.game import Game
from respect_core.variants import SEED
from tasks.registry import registry
from tasks.support.workspace import Workspace, workspace
from tests.bench import models
from tests.bench.flops import counting
from tests.bench.record import Record, case, compare

BAR = 4.0
GAMES = 32
Actions = list[list[str]]


@dataclass
class Server:
    """Behind HTTP on the loopback."""

    policy_server: PolicyServer
    port: int

    def play(self, played: Sequence[GameContext]) -> Actions:
        """All games at once, each by a client of its own; their actions."""
        with ThreadPoolExecutor(len(played)) as pool:
            return list(pool.map(self._play, played))

    def _play(self, context: GameContext) -> list[str]:
        game, speaker = Game(context), world.speaker_factory()(context, "bench")
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        while not game.over:
            game.say(speaker.speak(game.state, game.last_action).utterance)
            *before, last = game.turns
            request = {
                "variant": "b-fft",
                "game": context.id,
                "context": list(context.images),
                "turns": [{"utterance": turn.utterance, "action": turn.action} for turn in before],
                "utterance": last.utterance,
            }
            connection.request("POST", "/act", json.dumps(request), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            reply = json.loads(answer.read())
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {reply}")
            game.act(reply["action"], reply["probability"])
        connection.close()
        return [str(turn.action) for turn in game.turns]


@case("serving")
def serving(quick: bool) -> Iterator[Record]:
    if not quick:  # a minute and a half, most of it servers that start
        yield measure(GAMES, repeats=3)


def measure(games: int, repeats: int) -> Record:
    """Each repeat has a server of its own, which has seen none of the games."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        place, played = _registered(Path(folder), games)

        def servers(**changes: float) -> list[Server]:
            return [stack.enter_context(_server(place, changes)) for _ in range(repeats + 1)]

        ours, peer = servers(), servers(most=1, wait=0.0, cache_bytes=0)
        counts, actions = [], []
        for server in (ours.pop(), peer.pop()):
            (version,) = server.policy_server.roster.deployed().values()
            with counting(version.policy.model) as counted:
                actions.append(server.play(played))
            counts.append(counted)
        assert actions[0] == actions[1], "the two servers took different actions"
        turns = sum(map(len, actions[0]))
        return compare(
            "serving",
            "tiny",
            None,
            ours=lambda: ours.pop().play(played),
            peer=lambda: peer.pop().play(played),
            work=turns,
            unit="turns/s",
            peer_name="one call per turn, nothing kept",
            bar=BAR,
            equality=f"sampled, the same actions in all {turns} turns of {games} games",
            tokens=(counts[0].tokens, counts[1].tokens),
            flops=(counts[0].flops, counts[1].flops),
            repeats=repeats,
            warm_up=False,
            packages=("fastapi", "uvicorn"),
        )


def _registered(folder: Path, games: int) -> tuple[Workspace, list[GameContext]]:
    """A registry with an adapter that nobody trained, as the seed policy, and contexts with their images."""
    prepare(folder)
    place = workspace(folder)
    pool = world.play_contexts(games, "bench-serving")
    world.ensure_images(place.open(), pool)
    files = folder / "adapter"
    save_adapter(models.push(attach_lora(models.base("tiny"), models.lora("tiny"), seed=0)), files)
    (files / "profile.json").write_bytes(TypeAdapter(Profile).dump_json(tiny()))
    tags = {"round": 0, "adapter_hash": adapter_hash(files)}
    registry.register_adapter(place, registry.start_run(place, SEED), SEED, files, tags=tags, metrics={}, step=0)
    return place, pool


@contextlib.contextmanager
def _server(place: Workspace, changes: dict[str, float]) -> Iterator[Server]:
    settings = Settings(variants=("b-fft",), every=3600.0, **changes)  # type: ignore[arg-type]  # numbers by name
    server = PolicyServer(place, settings)
    served = uvicorn.Server(uvicorn.Config(create_app(server), port=0, log_level="warning"))
    thread = threading.Thread(target=served.run)
    thread.start()
    try:
        while not (served.started and server.readiness().ready):
            time.sleep(0.05)
        yield Server(server, served.servers[0].sockets[0].getsockname()[1])
    finally:
        served.should_exit = True
        thread.join()
