"""The gateway's command: killed again and again, and under many conversations."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import psutil
import pytest
from gateways import chat_profile
from paths import REPOSITORY
from policy_servers import registered, until

from respect_core.log import served_chats

CLIENTS, CONVERSATIONS = 8, 10_000


@contextmanager
def _command(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """`respect serve --scenario chat`, until it answers; killed at the end unless it has ended."""
    given = ["--run", "main", "--scenario", "chat", "--variants", "b-fft", "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with (folder / "gateway.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.serving", *given],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: _ready(port) or process.poll() is not None)
        assert process.poll() is None, (folder / "gateway.log").read_text()[-2000:]
        yield process
    finally:
        process.kill()
        process.wait()


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200
    except httpx.HTTPError:
        return False


def _talk(port: int, number: int, acknowledged: list[str], stop: threading.Event) -> None:
    """Stream replies, and note those whose end arrived."""
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=60)
    turn = 0
    while not stop.is_set():
        turn += 1
        try:
            stream = client.chat.completions.create(
                model="respect",
                messages=[{"role": "user", "content": f"turn {turn}"}],
                user=f"user-{number}",
                max_tokens=6,
                stream=True,
            )
            acknowledged.extend(chunk.id for chunk in stream if chunk.choices and chunk.choices[0].finish_reason)
        except (openai.APIError, httpx.HTTPError):
            stop.wait(0.2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    place = registered(tmp_path, chat_profile())
    port = _free_port()
    acknowledged: list[str] = []
    stop = threading.Event()
    clients = [threading.Thread(target=_talk, args=(port, n, acknowledged, stop)) for n in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        for _ in range(10):
            with _command(tmp_path, port) as process:
                before = len(acknowledged)
                until(lambda before=before: len(acknowledged) >= before + 3 * CLIENTS)
                time.sleep(0.05)
                process.send_signal(signal.SIGKILL)
                process.wait()
    finally:
        stop.set()
        for client in clients:
            client.join()
    with _command(tmp_path, port) as process:  # brings what the others left into the store
        process.terminate()
        assert process.wait(60) is not None
    stored = Counter(chat.id for chat in served_chats.read(place.open()))
    assert len(acknowledged) == len(set(acknowledged)) >= 10 * 3 * CLIENTS
    assert not set(acknowledged) - stored.keys(), "an acknowledged reply is lost"
    assert max(stored.values()) == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_conversations_of_64_clients_take_no_more_memory_than_two_thousand(tmp_path: Path) -> None:
    place = registered(tmp_path, chat_profile())
    port = _free_port()
    with _command(tmp_path, port) as process, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:

        def ask(number: int) -> int:
            body = {"model": "respect", "messages": [{"role": "user", "content": f"hello {number}"}], "max_tokens": 4}
            answer = client.post("/v1/chat/completions", json=body | {"user": f"user-{number}"})
            return answer.status_code

        memory = []
        with ThreadPoolExecutor(64) as pool:
            for start in range(0, CONVERSATIONS, 2_000):
                assert set(pool.map(ask, range(start, start + 2_000))) == {200}
                memory.append(psutil.Process(process.pid).memory_info().rss / 2**20)
        process.terminate()
        process.wait(60)
    stored = {chat.id for chat in served_chats.read(place.open())}
    assert len(stored) == CONVERSATIONS
    assert memory[-1] < memory[0] + 100, f"MiB after each 2,000: {memory}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
