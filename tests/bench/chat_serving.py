"""Measure the gateway beside other servers of one model: time to the first token of a stream, and tokens a second.

Each server is a process of its own with all cores, and answers the same prompts greedily, alone and eight at a time.
The peers are the server that comes with transformers, with and without its continuous batching, and vLLM where
RESPECT_TEST_VLLM_PYTHON names the Python of an environment that has it, by itself and behind the gateway.

`python -m tests.bench.chat_serving FOLDER PORT [VLLM]` is the gateway.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import openai
import uvicorn
from pydantic import TypeAdapter

from deployments.serving.gateway import vllm
from deployments.serving.gateway.app import create_app
from deployments.serving.gateway.engine import InProcess
from deployments.serving.gateway.gateway import Gateway, Settings
from flows.support.environment import prepare
from respect_core.model import local
from respect_core.model.base import adapter_hash, attach_lora, load_base, save_adapter
from respect_core.profiles import Profile, profile
from respect_core.scenario import scenario
from respect_core.variants import SEED
from tasks.registry import registry
from tasks.support.workspace import workspace
from tests.bench.record import Record, case, versions

BAR = 1.0  # of transformers' own server
AT_ONCE, TOKENS, REPEATS = 8, 32, 2
PROMPTS = [
    f"Explain in a few sentences {what}."
    for what in (
        "why the sky is blue",
        "how bread rises",
        "what a lighthouse is for",
        "how tides work",
        "why cats purr",
        "how a bicycle stays upright",
        "what a glacier does to a valley",
        "how paper is made",
    )
]


@dataclass(frozen=True)
class Served:
    """What one pass over the prompts gave."""

    seconds: float
    first: float  # median seconds to the first token
    tokens: int
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Server:
    """Behind HTTP on the loopback."""

    name: str
    client: openai.OpenAI
    model: str

    def ask(self, at_once: int) -> Served:
        """Answer every prompt once."""
        began = time.perf_counter()
        with ThreadPoolExecutor(at_once) as pool:
            answers = list(pool.map(self._stream, PROMPTS))
        seconds = time.perf_counter() - began
        firsts, counts, texts = zip(*answers, strict=True)
        return Served(seconds, median(firsts), sum(counts), texts)

    def _stream(self, prompt: str) -> tuple[float, int, str]:
        began, first, text, tokens = time.perf_counter(), None, "", 0
        messages: list[Any] = [{"role": "user", "content": prompt}]
        options: Any = {"stream_options": {"include_usage": True}, "temperature": 0.0, "max_tokens": TOKENS}
        for chunk in self.client.chat.completions.create(model=self.model, messages=messages, stream=True, **options):
            if chunk.choices and chunk.choices[0].delta.content:
                first = first or time.perf_counter() - began
                text += chunk.choices[0].delta.content
            tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        assert first is not None, f"nothing came for {prompt!r}"
        return first, tokens, text


@case("chat-serve")
def chat_serve(quick: bool) -> Iterator[Record]:
    if quick:  # minutes, most of it servers that start
        return
    chosen = profile("chat")
    source = local.locate(chosen.base)
    python = shutil.which(os.environ.get("RESPECT_TEST_VLLM_PYTHON", ".venv-vllm/bin/python"))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        _register(Path(folder), chosen)
        gateway = [sys.executable, "-m", "tests.bench.chat_serving", folder]
        transformers = [str(Path(sys.executable).with_name("transformers")), "serve", source, "--port"]

        def start(name: str, model: str, command: Sequence[str], *more: str, health: str = "/health") -> Server:
            return stack.enter_context(process(name, model, command, more, health))

        ours = start("the gateway", "respect", gateway, health="/ready")
        peers = [
            start("transformers serve", source, transformers),
            start("transformers serve, continuous batching", source, transformers, "--continuous-batching"),
        ]
        if python:
            command = [*vllm.command(chosen, 0, python)[:-1]]
            peers.append(start("vLLM", "base", command, "--served-model-name", "base", "--max-model-len", "2048"))
            behind = start("vLLM for it", "base", command, "--max-model-len", "2048")
            url = str(behind.client.base_url).removesuffix("/v1/")
            peers.append(start("the gateway before vLLM", "respect", gateway, url, health="/ready"))
        for at_once in (1, AT_ONCE):
            for peer in peers:
                yield from _compare(ours, peer, at_once)


def _compare(ours: Server, peer: Server, at_once: int) -> Iterator[Record]:
    """Time both in turns, after a pass each to warm up."""
    passes = [(ours.ask(at_once), peer.ask(at_once)) for _ in range(REPEATS + 1)][1:]
    mine, other = zip(*passes, strict=True)
    equal = sum(a == b for a, b in zip(mine[0].texts, other[0].texts, strict=True))
    for case_name, unit, value in (
        ("chat-serve", "tokens/s", lambda each: each.tokens / each.seconds),
        ("chat-first", "first tokens/s", lambda each: 1 / each.first),
    ):
        pairs = [value(a) / value(b) for a, b in passes]
        speed, peer_speed = median(map(value, mine)), median(map(value, other))
        yield Record(
            case=case_name,
            size=f"135m, {at_once} at once",
            turns_per_game=None,
            ours=speed,
            peer=peer_speed,
            peer_name=peer.name,
            unit=unit,
            ratio=speed / peer_speed,
            bar=BAR if peer.name.startswith("transformers") else None,
            tokens_ours=mine[0].tokens,
            tokens_peer=other[0].tokens,
            flops_ours=None,
            flops_peer=None,
            seconds_ours=median(each.seconds for each in mine),
            seconds_peer=median(each.seconds for each in other),
            repeats=REPEATS,
            spread=(min(pairs), max(pairs)),
            equality=f"greedy, {equal} of {len(PROMPTS)} texts of {TOKENS} tokens equal",
            versions=versions("openai", "fastapi", "uvicorn"),
        )


@contextlib.contextmanager
def process(name: str, model: str, command: Sequence[str], more: Sequence[str], health: str) -> Iterator[Server]:
    """Start a server, whose command takes a free port and then `more`, and wait until it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    given = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        [*command, str(port), *more], env=given, start_new_session=True, stdout=subprocess.DEVNULL
    ) as process:
        try:
            while not _answers(url + health):
                assert process.poll() is None, f"{name} ended while it started"
                time.sleep(0.5)
            yield Server(name, openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=600.0), model)
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url).status_code == httpx.codes.OK
    return False


def _register(folder: Path, chosen: Profile) -> None:
    """Register an adapter that changes nothing as the seed policy, so that all servers have the same model."""
    prepare(folder)
    place = workspace(folder)
    base = load_base(chosen.base, scenario(chosen.scenario))
    files = folder / "adapter"
    save_adapter(attach_lora(base, chosen.lora, seed=0), files)
    (files / "profile.json").write_bytes(TypeAdapter(Profile).dump_json(chosen))
    tags = {"round": 0, "adapter_hash": adapter_hash(files)}
    registry.register_adapter(place, registry.start_run(place, SEED), SEED, files, tags=tags, metrics={}, step=0)


def _serve(folder: Path, port: int, url: str | None) -> None:
    prepare(folder)
    place, settings = workspace(folder), Settings(variants=("b-fft",))
    engine = vllm.Vllm(place, settings, url) if url else InProcess(place, settings)
    gateway: Gateway[Any] = Gateway(place, settings, engine)
    uvicorn.run(create_app(gateway), port=port, access_log=False, log_level="warning")


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
