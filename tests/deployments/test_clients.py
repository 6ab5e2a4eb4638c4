"""Slow and greedy clients are cut off below the application, and the others are answered."""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
import uvicorn
import websockets
from fastapi import FastAPI, Request, WebSocket
from websockets.frames import Frame, Opcode

from deployments import clients
from deployments.clients import Caps, Gate, SmallBodies, household

pytestmark = pytest.mark.timeout(120)
QUICK = Caps(seconds=0.5)
FEW = Caps(total=16, share=0.5, seconds=0.5)
"""Eight connections from an address."""


def _app() -> FastAPI:
    app = FastAPI()
    app.add_middleware(SmallBodies, largest=128 * 1024)

    @app.post("/count")
    async def count(request: Request) -> int:
        return len(await request.body())

    @app.post("/json")
    async def given(body: dict[str, str]) -> int:
        return len(body)

    @app.get("/slow/{seconds}")
    async def slow(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    @app.websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        await socket.accept()
        while (message := await socket.receive())["type"] == "websocket.receive":
            await socket.send_text(message["text"])

    return app


@contextmanager
def _serving(caps: Caps, proxies: str = "") -> Iterator[int]:
    server = uvicorn.Server(
        uvicorn.Config(_app(), port=0, log_level="warning", **clients.options(caps, proxies=proxies))
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def _closed_after(began: float, connection: socket.socket, dribble: bytes = b"") -> float:
    """Seconds from a time before it was opened until the server closes it, while a byte is sent now and then."""
    connection.settimeout(0.05)
    while time.monotonic() - began < 20:
        try:
            if dribble:
                connection.send(dribble)
            if not connection.recv(4096):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("begun", "dribble"),
    [
        (b"", b""),
        (b"GET / HTTP/1.1\r\nX: ", b"x"),
        (b"POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n", b"x"),
        (b"POST /json HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"GET /none HTTP/1.1\r\nHost: x\r\n\r\nGET /none HTTP/1.1\r\nX: ", b"x"),
    ],
    ids=["silent", "head", "body", "chunks", "second request"],
)
def test_who_is_slow_is_cut_off(begun: bytes, dribble: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with _serving(FEW) as port, ExitStack() as stack:
        began = time.monotonic()
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(8)]
        for each in slow:
            each.sendall(begun)
        assert all(0.4 < _closed_after(began, each, dribble) < 10 for each in slow)
        _until_it_answers(port)  # they take no more room
    assert "Traceback" not in capsys.readouterr().err


def test_who_waits_for_the_server_is_not_cut_off() -> None:
    """Nor a socket that says nothing, nor a connection that is used again after a pause."""

    async def play(port: int) -> None:
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
            websockets.connect(f"ws://127.0.0.1:{port}/ws") as ws,
        ):
            for _ in range(2):
                assert (await client.get("/slow/2.5")).json() == "done"
                assert (await client.post("/count", content=b"x" * 100_000)).json() == 100_000
            await ws.send("still here")
            assert await ws.recv() == "still here"

    with _serving(Caps(seconds=2.0)) as port:
        asyncio.run(play(port))


def test_connections_beyond_the_caps_are_refused_and_make_room_as_they_go() -> None:
    with _serving(replace(FEW, seconds=600.0)) as port, ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(30)]
        assert not _answers(port)
        for each in silent:
            each.close()
        _until_it_answers(port)


def _answers(port: int) -> bool:
    """Whether there is room for one more."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/none", timeout=60).status_code == 404
    except httpx.TransportError:
        return False


def _until_it_answers(port: int) -> None:
    while not _answers(port):
        time.sleep(0.02)


def test_a_proxy_has_all_and_sockets_count_until_they_close() -> None:
    async def play(port: int) -> None:
        opened = [await websockets.connect(f"ws://127.0.0.1:{port}/ws") for _ in range(16)]
        assert not await opens(port)
        for each in opened:
            await each.close()
        while not await opens(port):  # the server closes a moment after its clients
            await asyncio.sleep(0.02)

    async def opens(port: int) -> bool:
        try:
            await (await websockets.connect(f"ws://127.0.0.1:{port}/ws")).close()
        except (OSError, websockets.InvalidMessage, EOFError):
            return False
        return True

    with _serving(Caps(total=16, share=0.5), proxies="127.0.0.1") as port:
        asyncio.run(play(port))


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG, Opcode.CONT])
def test_a_flood_of_frames_that_no_application_sees_closes_its_socket(opcode: Opcode) -> None:
    async def play(port: int) -> None:
        quiet = await websockets.connect(f"ws://127.0.0.1:{port}/ws")
        loud = await websockets.connect(f"ws://127.0.0.1:{port}/ws", ping_interval=None)
        if opcode is Opcode.CONT:
            loud.transport.write(Frame(Opcode.TEXT, b"", fin=False).serialize(mask=True))
        flood = Frame(opcode, b"", fin=opcode is not Opcode.CONT).serialize(mask=True) * 1000
        loud.transport.write(flood)
        async with asyncio.timeout(30):
            await loud.wait_closed()
        for _ in range(50):  # fewer than are saved up
            await (await quiet.ping())
        await quiet.send("here")
        assert await quiet.recv() == "here"
        await quiet.close()

    with _serving(Caps()) as port:
        asyncio.run(play(port))


def test_what_is_not_utf_8_leaves_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    async def play(port: int) -> None:
        one = await websockets.connect(f"ws://127.0.0.1:{port}/ws")
        one.transport.write(Frame(Opcode.TEXT, b"\xff\xfe secret").serialize(mask=True))
        async with asyncio.timeout(30):
            await one.wait_closed()
        assert one.close_code == 1007

    with _serving(Caps()) as port:
        asyncio.run(play(port))
        kind = {"Content-Type": "application/json"}
        answer = httpx.post(f"http://127.0.0.1:{port}/json", content=b'{"a": "\xff"}', headers=kind, timeout=60)
        assert answer.status_code in (400, 422)
    said = capsys.readouterr().err
    assert "Traceback" not in said and "secret" not in said


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::a:1:2:3", "2001:db8::"),
        ("2001:db8::b:1:2:3", "2001:db8::"),
        ("2001:db8:0:1::1", "2001:db8:0:1::"),
        ("fe80::1%eth0", "fe80::"),
        ("testclient", "testclient"),
    ],
)
def test_a_household_is_one_client(host: str, client: str) -> None:
    assert household(host) == client


def test_descriptors_are_left_for_the_servers_own() -> None:
    assert Gate(Caps(), 256).total == 64
    assert Gate(Caps(), 65_536).total == 4_096
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        assert clients.raise_descriptors() == resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize(
    ("proxies", "host", "trusted"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "192.0.2.7", False),
        ("10.0.0.0/8, ::1", "10.1.2.3", True),
        ("10.0.0.0/8, ::1", "::1", True),
        ("*", "192.0.2.7", True),
        ("proxy.example", "192.0.2.7", False),
        ("", "127.0.0.1", False),
    ],
)
def test_which_addresses_are_proxies(proxies: str, host: str, trusted: bool) -> None:
    class Transport(asyncio.Transport):
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return (host, 1)

    gate = Gate(Caps(total=64, share=0.0), 65_536, proxies)
    assert [gate.enter(Transport()) for _ in range(9)] == [True] * 8 + [trusted]
