"""Users, players and operators who record what was acknowledged, and try again when something fails."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import openai
import websockets
from game_servers import Player
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import PrefectException
from running import ROUND, RunningStack
from talking_users import Users

from respect_core.release.approvals import Person
from tasks.release import approval
from tasks.release.approval import NotWaitingError

LEARNING: dict[str, Any] = {"profile": "home", "variants": ["b-fft"], "seeds": 1, "max_steps": 2, "minimum": 1}
GATE: dict[str, Any] = {
    "variant": "b-fft",
    "user_share_cap": 1.0,
    "min_effective_users": 1.0,
    "min_feedback_turns": 1,
    "margin": 1.0,
}
FAILED = (httpx.HTTPError, PrefectException, NotWaitingError, OSError)
LINK_KEY = "signs-answers-in-this-test"


class Talkers(Users):
    """Users of the gateway. A reply counts as acknowledged once its end has arrived."""

    def __init__(self, url: str, key: str, at_once: int = 2) -> None:
        super().__init__(url, at_once)
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, timeout=60, max_retries=0)
        self.failures: Counter[str] = Counter()

    def _talk(self) -> None:
        """Talk in new conversations without end; a reply that fails ends its conversation."""
        while not self._stop.is_set():
            try:
                self._converse(next(self._numbers))
            except (openai.APIError, httpx.HTTPError, IndexError) as error:  # IndexError: a stream without a chunk
                self.failures[type(error).__name__] += 1
                self._stop.wait(1.0)
            except Exception as error:
                self._failed.append(error)
                return


class Players:
    """Players of the game, in an event loop of their own."""

    def __init__(self, port: int, at_once: int = 2) -> None:
        self.acknowledged: dict[tuple[str, int], str] = {}
        self.failures: Counter[str] = Counter()
        self._port, self._at_once, self._stop = port, at_once, threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()))
        self._failed: list[BaseException] = []

    def __enter__(self) -> Players:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert not self._failed, self._failed

    async def _all(self) -> None:
        ended = await asyncio.gather(*(self._play(n) for n in range(self._at_once)), return_exceptions=True)
        self._failed += [each for each in ended if isinstance(each, BaseException)]

    async def _play(self, number: int) -> None:
        player = Player(self._port)
        told = itertools.count()
        arrived = False
        while not self._stop.is_set():
            try:
                if not arrived:
                    await player.arrive()
                    await player.agree()
                    arrived = True
                await self._games(player, lambda: f"player {number} says {next(told)}")
            except (websockets.WebSocketException, httpx.HTTPError, OSError, TimeoutError, AssertionError) as error:
                self.failures[type(error).__name__] += 1
                await asyncio.sleep(1.0)
        await player.http.aclose()

    async def _games(self, player: Player, words: Callable[[], str]) -> None:
        """Connect, and play until something fails or it is time to stop, which leaves the last game."""
        player.state = {}
        await player.connect()
        try:
            while not self._stop.is_set():
                if (await player.http.get("/api/me")).json()["game"] is None:
                    player.state = {}
                    await player.start(variant="b-fft")
                async with asyncio.timeout(90):
                    await self._turns(player, words)
            if player.state and player.state["phase"] != "over":
                await player.send(type="leave", game=player.state["game"])
                async with asyncio.timeout(10):
                    await player.state_where(phase="over")
        finally:
            with suppress(websockets.WebSocketException, OSError):
                await player.socket.close()

    async def _turns(self, player: Player, words: Callable[[], str]) -> None:
        while not player.state:
            await player.hear("state")
        while player.state["phase"] != "over" and not self._stop.is_set():
            if player.state["phase"] == "writing":
                game, turn, text = player.state["game"], player.state["turn"], words()
                await player.send(type="say", game=game, turn=turn, text=text)
                while (said := await player.hear_next())["type"] != "acknowledged":
                    if said["type"] == "state" and player.state["phase"] == "over":
                        return
                    if said["type"] == "refused":  # said before, in a game that a server lost sight of meanwhile
                        break
                else:
                    self.acknowledged[game, turn] = text
                await asyncio.sleep(0.3)
            else:
                await player.hear("state")


class Operators:
    """Somebody who has rounds run one after the other, promotes what they made, and now and then rolls it back."""

    def __init__(self, stack: RunningStack, judge: str, say: Callable[[str], None]) -> None:
        self.ended: list[tuple[str, str, str]] = []
        """Of each run: what, its state and its message."""
        self._stack, self._say, self._stop = stack, say, threading.Event()
        self.round = LEARNING | {"decoder": f"openai:judge@{judge}"}
        self._thread = threading.Thread(target=self._operate)
        self._failed: list[Exception] = []

    def __enter__(self) -> Operators:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert not self._failed, self._failed

    def run(self, deployment: str, seconds: float, **parameters: Any) -> str:
        """Have a deployment run; return the message with which it completed, else nothing."""
        run, deadline = self._start(deployment, parameters), time.monotonic() + seconds
        answered = False
        while time.monotonic() < deadline:
            with suppress(*FAILED):
                found = self._stack.api.get(f"/flow_runs/{run}").raise_for_status().json()
                if found["state_name"] in ("Suspended", "Paused") and not answered:
                    answered = self._approve(run)
                if found["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                    message = found["state"]["message"] or ""
                    self.ended.append((deployment, found["state_type"], message))
                    self._say(f"{deployment} ended {found['state_type']}: {message[:200]}")
                    return message if found["state_type"] == "COMPLETED" else ""
            time.sleep(2.0)
        self.ended.append((deployment, "WAITED", str(seconds)))
        self._say(f"{deployment} {run} has not ended after {seconds:.0f} s")
        return ""

    def _start(self, deployment: str, parameters: dict[str, Any]) -> str:
        """Once, however often the server fails to answer."""
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}, "idempotency_key": uuid.uuid4().hex}
        while True:
            with suppress(*FAILED):
                path = f"/deployments/{self._stack.deployment(deployment)}/create_flow_run"
                return str(self._stack.api.post(path, json=body).raise_for_status().json()["id"])
            time.sleep(1.0)

    def _approve(self, run: str) -> bool:
        """As somebody who came to the approvals page by a link."""
        login = self._stack.stack.login()["PREFECT_API_AUTH_STRING"]
        with SyncPrefectClient(f"{self._stack.stack.prefect}/api", auth_string=login) as client:
            for asked in approval.waiting(client):
                if str(asked.run) == run:
                    approval.give(client, asked, Person("chaos", "link"), LINK_KEY, approve=True, note="looks fine")
                    return True
        return False

    def _operate(self) -> None:
        try:
            for number in itertools.count():
                if self._stop.is_set():
                    return
                if "registered" in self.run(ROUND, 1200, parameters=self.round):
                    self.run("deployed-promote/promote", 1200, parameters=GATE | {"approve": number % 2 == 0})
                    if number % 3 == 2:
                        self.run("deployed-rollback/rollback", 600, parameters={"variant": "b-fft", "reason": "chaos"})
                self._stop.wait(5.0)
        except Exception as error:
            self._failed.append(error)
