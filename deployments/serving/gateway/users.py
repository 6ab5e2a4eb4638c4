"""Let simulated users talk to a gateway as people would, over its API: FOR MEASURING ONLY.

The gateway logs what they say. Whether they got what they wanted is known here alone.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from respect_core.acting.listener import Act
from respect_core.errors import ExpectedError
from respect_core.log.records import InteractionLog, PolicyIdentity, from_log
from respect_core.measuring.world import Deployment, SimulatedInteraction, world
from respect_core.scenario import Message, Scenario, scenario
from respect_core.settings import settings

_SECONDS = 300.0  # for an answer


class GatewayAwayError(ExpectedError):
    """The gateway does not answer, or refuses."""


@dataclass(frozen=True)
class Talked:
    """What became of conversations: how many were finished, by the version that talked."""

    finished: dict[str, int]
    conversations: dict[str, int]


def talk(
    url: str,
    name: str,
    conversations: int,
    seed: int | str,
    *,
    at_once: int = 8,
    model: str = "respect",
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Talked:
    """Hold conversations with the gateway at `url`.

    Args:
        name: of the scenario whose users talk.
        at_once: conversations that run in parallel.

    Raises:
        GatewayAwayError: it does not answer, or refuses.
    """
    plugged, run = scenario(name), uuid.uuid4().hex[:12]
    nobody = Deployment(0, "gateway", PolicyIdentity(name="gateway", version="unknown"), seed)
    users = list(world(name).interactions(conversations, seed, nobody))
    key = settings().openai_api_key
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    finished, counts = dict[str, int](), dict[str, int]()
    limits = httpx.Limits(max_connections=at_once)
    with (
        httpx.Client(base_url=url.rstrip("/"), timeout=_SECONDS, headers=headers, limits=limits) as client,
        ThreadPoolExecutor(at_once) as pool,
    ):
        talks = [
            pool.submit(_Talk(client, plugged, model, f"{run}-{number}").hold, user, number)
            for number, user in enumerate(users)
        ]
        try:
            for done, future in enumerate(talks, 1):
                version, log = future.result()
                counts[version] = counts.get(version, 0) + 1
                success = log.outcome is not None and log.outcome.success
                finished[version] = finished.get(version, 0) + success
                progress(done, conversations)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return Talked(finished, counts)


@dataclass(frozen=True)
class _Talk:
    """One conversation."""

    client: httpx.Client
    scenario: Scenario
    model: str
    id: str

    def hold(self, user: SimulatedInteraction, number: int) -> tuple[str, InteractionLog]:
        """Talk until the user is done, and say the last word; return who answered, and what became of it."""
        name = f"simulated-{number}"
        while not user.over:
            seen, began = user.seen(), time.perf_counter()
            text, version = self._ask(name, self.scenario.messages(seen))
            accepted = self.scenario.accept(text, seen)
            user.act(Act(accepted.action, 1.0, accepted.legal), time.perf_counter() - began)
        log = user.log(number)
        if log.closing:
            self._ask(name, [*self.scenario.messages(from_log(log)), _said(log.closing)])
        return version, log

    def _ask(self, user: str, messages: list[Message]) -> tuple[str, str]:
        body = {"model": self.model, "user": user, "messages": [_flat(message) for message in messages]}
        for _ in range(int(_SECONDS)):
            try:
                answer = self.client.post("/v1/chat/completions", json=body, headers={"X-Conversation-Id": self.id})
            except httpx.TransportError as error:
                raise GatewayAwayError(f"the gateway does not answer ({type(error).__name__}); start it") from None
            if answer.status_code not in (429, 503):
                break
            time.sleep(1.0)
        if answer.is_error:
            raise GatewayAwayError(f"the gateway refuses with status {answer.status_code}: check its log and its key")
        reply: dict[str, Any] = answer.json()
        return str(reply["choices"][0]["message"]["content"] or ""), str(reply["system_fingerprint"])


def _said(text: str) -> Message:
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def _flat(message: Message) -> Message:
    """Return a message with its text as a string, as most clients send it."""
    return {"role": message["role"], "content": "".join(part["text"] for part in message["content"])}
