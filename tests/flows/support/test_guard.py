"""Who gets past the guard of a server on the loopback: its own page and its user's programs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from paths import REPOSITORY

from flows.support.guard import Guard

PORT = 4200
LOGIN = b"Basic cmVzcGVjdDpzZWNyZXQ="  # respect:secret


async def _application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": f"{scope['type']}.reached"})


def _answer(guard: Guard, headers: list[tuple[bytes, bytes]], kind: str = "http") -> Any:
    """Status of a refusal, or None where the application was reached."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": kind, "server": ("127.0.0.1", PORT), "headers": headers}
    asyncio.run(guard(scope, None, send))  # type: ignore[arg-type]  # nothing is received
    if sent[0]["type"] == f"{kind}.reached":
        return None
    return sent[0].get("status", sent[0].get("code"))


def _host(name: str, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [(b"host", name.encode()), *more]


@pytest.mark.parametrize("own", ["127.0.0.1:4200", "localhost:4200", "[::1]:4200"])
def test_own_names_and_own_pages_pass(own: str) -> None:
    guard = Guard(_application)
    assert _answer(guard, _host(own)) is None
    assert _answer(guard, _host(own, (b"origin", b"http://localhost:4200"))) is None
    assert _answer(guard, _host(own), "websocket") is None


@pytest.mark.parametrize(
    "headers",
    [
        _host("evil.example:4200"),
        _host("10.evil.example:4200"),  # passes for a private address where names are matched by their start
        _host("127.0.0.1.evil.example:4200"),
        _host("127.0.0.1:4201"),
        _host("127.0.0.1"),
        _host("127.0.0.1:4200", (b"host", b"evil.example")),
        [],
        *[
            _host("127.0.0.1:4200", (b"origin", origin), (b"authorization", LOGIN))
            for origin in (b"https://evil.example", b"null", b"http://127.0.0.1:8080", b"https://127.0.0.1:4200", b"")
        ],
    ],
)
@pytest.mark.parametrize("login", [None, "respect:secret"])
def test_foreign_names_and_pages_are_refused(headers: list[tuple[bytes, bytes]], login: str | None) -> None:
    assert _answer(Guard(_application, login), headers) == 403
    assert _answer(Guard(_application, login), headers, "websocket") == 1008


@pytest.mark.parametrize("sent", [b"", b"Basic", b"Basic cmVzcGVjdDpndWVzcw==", b"Bearer secret", LOGIN + b"="])
def test_only_the_login_is_let_in(sent: bytes) -> None:
    guard = Guard(_application, "respect:secret")
    assert _answer(guard, _host("127.0.0.1:4200", (b"authorization", LOGIN))) is None
    assert _answer(guard, _host("127.0.0.1:4200", (b"authorization", sent))) == 401
    assert _answer(guard, _host("127.0.0.1:4200", (b"authorization", LOGIN), (b"authorization", sent))) == 401
    assert _answer(guard, _host("127.0.0.1:4200")) == 401
    assert _answer(guard, _host("127.0.0.1:4200"), "websocket") == 1008


def test_a_server_ends_with_the_process_that_started_it() -> None:
    """As MLflow's does, where `mlflow server` alone is killed."""
    child = "import time; from flows.support.guard import end_with_parent; end_with_parent()"
    child += "; print('ready', flush=True); time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as started:
        assert started.stdout is not None and started.stdout.readline() == "ready\n"
        started.kill()
        assert started.stdout.read() == "", "the pipe is open for as long as the child lives"
