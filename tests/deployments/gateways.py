"""Gateways over a registry of real adapters on a small random text model, for tests."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx
import openai
import uvicorn
from policy_servers import PATIENCE, until
from text_bases import small_llama

from deployments import clients
from deployments.serving.gateway import operator
from deployments.serving.gateway.app import create_app
from deployments.serving.gateway.engine import InProcess
from deployments.serving.gateway.gateway import Gateway, Settings
from deployments.serving.gateway.live import Live
from deployments.serving.gateway.vllm import Vllm
from respect_core.acting.policy import Policy
from respect_core.log.log import LOGS, read_logs
from respect_core.log.records import from_log
from respect_core.model.chat import chat
from respect_core.profiles import Profile
from respect_core.profiles import profile as named_profile
from tasks.support.workspace import Workspace


def chat_profile() -> Profile:
    return replace(named_profile("chat"), base=small_llama())


@dataclass
class Running:
    """A gateway behind HTTP, and clients of it."""

    gateway: Gateway[Any]
    url: str
    http: httpx.Client
    client: openai.OpenAI

    def say(self, *said: str, **given: Any) -> Any:
        """Ask for an answer to what user and assistant said in turns."""
        messages: list[Any] = [
            {"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(said)
        ]
        options = {"model": "respect", "max_tokens": 8, "messages": messages} | given
        return self.client.chat.completions.create(**options)


def probabilities(place: Workspace, policy: Policy) -> list[tuple[float, float, int]]:
    """For each collected reply whose log-probability is known: as logged, as training computes it, and its tokens."""
    logs = [log for key in place.open().keys(f"{LOGS}/") for log in read_logs(place.open(), key)]
    known = [log for log in logs if any(turn.logp is not None for turn in log.turns)]
    found = zip(known, policy.log_probabilities(list(map(from_log, known))), strict=True)
    turns = [pair for log, computed in found for pair in zip(log.turns, computed, strict=True)]
    tokens = chat(policy.base.processor).action_tokens
    return [(turn.logp, value, len(*tokens([turn.action]))) for turn, value in turns if turn.logp is not None]


@contextlib.contextmanager
def serving(
    place: Workspace,
    *,
    keys: Mapping[str, str] | None = None,
    vllm: str | None = None,
    operators: operator.Settings | None = None,
    ready: bool = True,
    **given: Any,
) -> Iterator[Running]:
    """A gateway of b-fft that looks often at what is deployed, and at what users said."""
    settings = Settings(**{"variants": ("b-fft",), "every": 0.2, "flush": 0.3} | given)
    engine = Vllm(place, settings, vllm) if vllm else InProcess(place, settings)
    gateway: Gateway[Any] = Gateway(place, settings, engine)
    live = Live(place.open(), gateway.on_offer, every=0.5)
    app = create_app(gateway, keys, live, operators)
    http = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", **clients.options(clients.Caps(share=1.0))))
    thread = threading.Thread(target=http.run)
    thread.start()
    try:
        until(lambda: http.started)
        url = f"http://127.0.0.1:{http.servers[0].sockets[0].getsockname()[1]}"
        key = next(iter(keys or {"none": ""}))
        with httpx.Client(base_url=url, timeout=PATIENCE) as plain:
            until(lambda: not ready or plain.get("/ready").status_code == 200)
            client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=PATIENCE)
            yield Running(gateway, url, plain, client)
            client.close()
    finally:
        http.should_exit = True
        thread.join()
