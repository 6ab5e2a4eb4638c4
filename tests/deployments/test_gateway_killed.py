"""A gateway that is killed again and again: what was acknowledged is in the log, once."""

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
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
from gateways import chat_profile
from paths import REPOSITORY
from policy_servers import registered, until

from respect_core.log import served_chats

CLIENTS = 8


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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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
    stored = Counter(chat.id for _, chat in served_chats.read(place.open()))
    assert len(acknowledged) == len(set(acknowledged)) >= 10 * 3 * CLIENTS
    assert not set(acknowledged) - stored.keys(), "an acknowledged reply is lost"
    assert max(stored.values()) == 1
