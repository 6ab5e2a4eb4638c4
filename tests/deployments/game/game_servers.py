"""Game servers with a quick policy behind the real interface of the policy server, and players on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import multiprocessing
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
import websockets

from deployments import clients
from deployments.game.domain import quiz
from deployments.game.domain.consent import CONSENT
from deployments.game.domain.protocol import LARGEST_MESSAGE
from deployments.game.domain.study import Study
from deployments.game.domain.table import Clocks
from deployments.game.durability.journal import Journal
from deployments.game.engine.listener import InProcess
from deployments.game.engine.rooms import Rooms
from deployments.game.engine.settings import Limits, Settings
from deployments.game.web.app import create_app
from deployments.serving.base import Settings as Serving
from deployments.serving.server import PolicyServer
from deployments.serving.versions import LoadedVersion
from respect_core.acting.listener import Act
from respect_core.interaction import Interaction
from respect_core.scenario import scenario
from respect_core.scenarios.multiref import actions
from tasks.support.workspace import Workspace, workspace

PATIENCE = 120.0
LOOSE = Limits(messages=(1e6, 1e6), requests=(1e6, 1e6), arrivals=(1e6, 1e6))
PATIENT = Clocks(writing=36_000.0, acting=36_000.0)
VARIANTS = ("b-fft", "t-fft")


class Obedient:
    """A policy without a model: does what it is told in the action language, else selects the next image."""

    def act(self, interactions: Sequence[Interaction]) -> list[Act]:
        return [self._act(each) for each in interactions]

    def _act(self, interaction: Interaction) -> Act:
        turn = interaction.turns[-1]
        if actions.is_legal(turn.utterance, turn.state):
            return Act(actions.canonical(turn.utterance), 0.5)
        return Act(str(actions.Action(select=next(x for x in actions.LETTERS if x not in turn.state))), 0.25)


def version(variant: str, number: int = 1) -> LoadedVersion:
    """A version of a variant, with a hash of its own."""
    name = f"respect.{variant}/{number}"
    digest, multiref = hashlib.sha256(name.encode()).hexdigest(), scenario("multiref")
    return LoadedVersion(name, digest, "none", None, multiref, Obedient())  # type: ignore[arg-type]  # acts as a policy does


def policy_server(place: Workspace, variants: Sequence[str] = VARIANTS) -> PolicyServer:
    """With a version for every variant, and following nothing."""
    server = PolicyServer(place, Serving(variants=tuple(variants), every=3600.0))
    server.follower.variants = ()
    for variant in variants:
        server.roster.deploy(variant, version(variant))
    return server


class Clock:
    """The machine's, and what a test lets pass at once."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead

    def skip(self, seconds: float) -> None:
        self.ahead += seconds


def rooms(
    folder: Path, study: Study | None = None, clock: Callable[[], float] = time.monotonic, **settings: Any
) -> Rooms:
    """Of a game whose clocks run as they do unless said otherwise."""
    place = workspace(folder)
    acting = [each for each in (study.file.policies if study else VARIANTS) if each != "hh"]
    made = Settings(**{"limits": LOOSE, "round": 0, "tick": 0.02} | settings)
    journal = Journal(place.root / "game", pause=0.0)
    return Rooms(place, made, InProcess(policy_server(place, acting)), study, journal, clock)


@dataclass
class Running:
    """A game server on the loopback, in a thread of this process."""

    rooms: Rooms
    port: int

    def call(self, work: Any) -> Any:
        """Run a coroutine where the server runs."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)


@contextlib.contextmanager
def serving(game: Rooms, caps: clients.Caps | None = None) -> Iterator[Running]:
    """Until the block ends."""
    http = server(game, caps=caps)
    running = Running(game, 0)
    thread = threading.Thread(target=lambda: running.loop.run_until_complete(http.serve()))
    thread.start()
    try:
        until(lambda: http.started or not thread.is_alive())
        running.port = port_of(http)
        yield running
    finally:
        http.should_exit = True
        thread.join()
        running.loop.close()


def server(game: Rooms, port: int = 0, caps: clients.Caps | None = None) -> uvicorn.Server:
    """As `respect play` runs it; with caps of its own, also for whoever comes from this machine."""
    return uvicorn.Server(
        uvicorn.Config(
            create_app(game, seed=0),
            port=port,
            log_level="warning",
            ws_max_size=LARGEST_MESSAGE,
            ws_per_message_deflate=False,
            **clients.options(caps, proxies="127.0.0.1" if caps is None else ""),
        )
    )


def port_of(http: uvicorn.Server) -> int:
    port: int = http.servers[0].sockets[0].getsockname()[1]
    return port


class Killable:
    """A server in a process of its own, forked from this one, which has loaded everything already.

    Args:
        make: the rooms, made in that process.
    """

    def __init__(self, make: Callable[[], Rooms], port: int = 0) -> None:
        context = multiprocessing.get_context("fork")
        ports = context.SimpleQueue()

        def run() -> None:
            http = server(make(), port)

            async def serve() -> None:
                serving = asyncio.ensure_future(http.serve())
                while not http.started:
                    await asyncio.sleep(0.01)
                ports.put(port_of(http))
                await serving

            asyncio.run(serve())

        self._process = context.Process(target=run, daemon=True)
        self._process.start()
        self.port: int = ports.get()

    def kill(self) -> None:
        """As the kernel does when memory is short: nothing of the server runs any more."""
        self._process.kill()
        self._process.join()

    def stop(self) -> None:
        """Orderly."""
        self._process.terminate()
        self._process.join()


def until(condition: Any) -> None:
    """Wait until something holds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.01)


class Player:
    """Somebody with a browser: a cookie, REST, and a socket."""

    def __init__(self, port: int) -> None:
        self.origin = f"http://127.0.0.1:{port}"
        self.port = port
        limits = httpx.Limits(keepalive_expiry=2.0)  # sooner than the server, which could close a request's
        headers = {"Origin": self.origin}
        self.http = httpx.AsyncClient(base_url=self.origin, timeout=PATIENCE, headers=headers, limits=limits)
        self.socket: Any = None
        self.state: dict[str, Any] = {}
        self.heard: list[dict[str, Any]] = []

    async def arrive(self, **fields: Any) -> dict[str, Any]:
        answer = await self.http.post("/api/arrive", json={"participant": None, "study": None} | fields)
        assert answer.status_code == 200, answer.text
        state: dict[str, Any] = answer.json()["player_state"]
        return state

    async def agree(self) -> None:
        """Consent."""
        assert (await self.http.post("/api/consent", json={"agrees": True, "text": CONSENT})).status_code == 200

    async def qualify(self) -> None:
        """Consent and quiz."""
        await self.agree()
        right = {question.id: question.right for question in quiz._QUESTIONS}
        assert (await self.http.post("/api/quiz", json={"answers": right})).json()["passed"]

    @property
    def cookie(self) -> str:
        return f"respect_player={self.http.cookies['respect_player']}"

    async def connect(self) -> Player:
        headers = {"Cookie": self.cookie}
        self.socket = await websockets.connect(
            f"ws://127.0.0.1:{self.port}/ws", additional_headers=headers, origin=self.origin, open_timeout=PATIENCE
        )  # type: ignore[arg-type]  # an origin is a str
        return self

    async def start(self, mode: str = "policy", **fields: Any) -> dict[str, Any]:
        if not (await self.http.get("/api/me")).json()["consented"]:  # as the pages do
            await self.agree()
        answer = await self.http.post("/api/games", json={"mode": mode} | fields)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def hear(self, kind: str) -> dict[str, Any]:
        """The next message of a kind; states on the way are kept."""
        while (message := await self.hear_next())["type"] != kind:
            pass
        return message

    async def hear_next(self) -> dict[str, Any]:
        """The next message; a state is kept."""
        async with asyncio.timeout(PATIENCE):
            message: dict[str, Any] = json.loads(await self.socket.recv())
        self.heard.append(message)
        if message["type"] == "state":
            self.state = message
        return message

    async def state_where(self, **fields: Any) -> dict[str, Any]:
        """The state, once it has these fields."""
        while not self.state or any(self.state[name] != value for name, value in fields.items()):
            await self.hear("state")
        return self.state

    async def say(self, text: str, turn: int | None = None) -> None:
        """And wait for the acknowledgement."""
        number = self.state["turn"] if turn is None else turn
        await self.send(type="say", game=self.state["game"], turn=number, text=text)
        await self.hear("acknowledged")

    async def close(self) -> None:
        if self.socket is not None:
            await self.socket.close()
        await self.http.aclose()


@contextlib.asynccontextmanager
async def player(port: int, **arrival: Any) -> AsyncIterator[Player]:
    """Arrived and connected."""
    one = Player(port)
    try:
        await one.arrive(**arrival)
        yield await one.connect()
    finally:
        await one.close()
