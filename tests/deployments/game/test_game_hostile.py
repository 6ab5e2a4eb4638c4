"""Hostile players: refused or shown as plain text; nothing leaks, nothing breaks, and the others play on."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import models
import pytest
import uvicorn
import websockets
from game_servers import LOOSE, Player, Running, player, policy_server, port_of, rooms, serving, until
from itsdangerous import TimestampSigner
from itsdangerous.encoding import base64_decode, base64_encode, bytes_to_int, int_to_bytes

from deployments.game.engine.listener import Remote
from deployments.game.engine.settings import Limits
from deployments.serving import api as serving_api
from respect_core.log.lengths import Ruler
from respect_core.scenarios.multiref.scenario import SCENARIO
from tasks.support.workspace import Workspace

pytestmark = pytest.mark.timeout(600)
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)> {{7*7}} %s ../../etc '; DROP TABLE games; --"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(rooms(tmp_path_factory.mktemp("game"))) as server:
        yield server


async def _closed(one: Player) -> int:
    with pytest.raises(websockets.ConnectionClosed) as closed:
        while True:
            await one.hear("pong")
    return closed.value.rcvd.code if closed.value.rcvd else 1006


async def _in_a_game(one: Player) -> str:
    await one.start(variant="b-fft")
    return str((await one.state_where(phase="writing"))["game"])


def test_markup_is_plain_text_all_the_way(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        async with player(running.port) as one:
            await _in_a_game(one)
            await one.say(SCRIPT)
            state = await one.state_where(turn=1)
            assert state["turns"][0]["utterance"] == SCRIPT

    with caplog.at_level(logging.DEBUG):
        asyncio.run(play())
    assert "alert(1)" not in caplog.text, "no log line repeats what was written"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Policies over a base with a tokenizer, here or on a server elsewhere."""
    game = rooms(tmp_path_factory.mktemp("measured"))
    server = game.listener.server  # type: ignore[attr-defined]  # policies are in this process
    server._loader.ruler = Ruler(models.base().processor, SCENARIO)
    with serving(game) as running:
        yield running


LONG = ["\ufdfa" * 500, "!" * 500, "\u6f22" * 200]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
def test_what_is_too_long_is_asked_for_shorter_and_nobodys_game_stops(measured: Running, elsewhere: bool) -> None:
    here = measured.rooms.listener

    async def play() -> None:
        async with player(measured.port) as one:
            game = await _in_a_game(one)
            for text in LONG:
                await one.send(type="say", game=game, turn=0, text=text)
                refused = await one.hear("refused")
                assert (refused["field"], refused["reason"]) == ("text", "shorter, please")
            await one.say("a bird", 0)
            state = await one.state_where(turn=1)
            assert [turn["utterance"] for turn in state["turns"]] == ["a bird"]
            assert state["over"] is None

    with contextlib.ExitStack() as stack:
        if elsewhere:
            measured.rooms.listener = stack.enter_context(_elsewhere(measured.rooms.workspace))
            measured.rooms.listener.ready = here.ready  # type: ignore[method-assign]  # it need not look first
        asyncio.run(play())
        measured.rooms.listener = here


@contextlib.contextmanager
def _elsewhere(place: Workspace) -> Iterator[Remote]:
    server = policy_server(place)
    server._loader.ruler = Ruler(models.base().processor, SCENARIO)
    http = uvicorn.Server(uvicorn.Config(serving_api.create_app(server), port=0, log_level="warning"))
    thread = threading.Thread(target=http.run)
    thread.start()
    try:
        until(lambda: http.started)
        yield Remote(f"http://127.0.0.1:{port_of(http)}")
    finally:
        http.should_exit = True
        thread.join()


@pytest.mark.parametrize(
    "message",
    [
        "",
        "null",
        "[]",
        "{",
        '{"type":"say"}',
        '{"type":"<b>"}',
        '{"type":"say","game":"GAME","turn":0,"text":""}',
        '{"type":"say","game":"GAME","turn":0,"text":" "}',
        '{"type":"say","game":"GAME","turn":0,"text":"\\ud800"}',
        '{"type":"say","game":"GAME","turn":0,"text":7}',
        '{"type":"say","game":"GAME","turn":0,"text":"a","<script>":1}',
        '{"type":"say","game":"GAME","turn":-1,"text":"a"}',
        '{"type":"say","game":"GAME","turn":5,"text":"a"}',
        '{"type":"say","game":"GAME","turn":"0","text":"a"}',
        '{"type":"say","game":"GAME","turn":1e400,"text":"a"}',
        '{"type":"say","game":"../GAME","turn":0,"text":"a"}',
        '{"type":"say","game":"0123456789abcdef01234567","turn":0,"text":"a"}',
        '{"type":"say","game":"GAME","turn":0,"text":"' + "x" * 501 + '"}',
        '{"type":"act","game":"GAME","turn":0,"select":"A"}',
        '{"type":"act","game":"GAME","turn":0,"select":"AA"}',
        '{"type":"act","game":"GAME","turn":0,"select":"Z"}',
        '{"type":"targets","game":"GAME"}',
        '{"type":"wait"}',
        '{"type":"ping","at":"now"}',
        "[" * 2000,
    ],
)
def test_forged_and_broken_messages_are_refused_without_an_echo(running: Running, message: str) -> None:
    async def play() -> None:
        async with player(running.port) as one:
            game = await _in_a_game(one)
            await one.socket.send(message.replace("GAME", game))
            refused = await one.hear("refused")
            assert "script" not in json.dumps(refused) and "xxx" not in json.dumps(refused)
            await one.say("select A")  # and nothing is broken
            await one.state_where(turn=1)

    asyncio.run(play())


def test_others_games_are_out_of_reach(running: Running) -> None:
    async def play() -> None:
        async with player(running.port) as one, player(running.port) as eve:
            game = await _in_a_game(one)
            for kind in ({"type": "say", "turn": 0, "text": "mine now"}, {"type": "act", "turn": 0}, {"type": "leave"}):
                await eve.send(game=game, **kind)
                assert (await eve.hear("refused"))["field"] == "game"
            assert not [each for each in eve.heard if each["type"] != "refused"]
            await one.say("select A")

    asyncio.run(play())


def test_a_listener_who_asks_learns_nothing_of_the_targets(running: Running) -> None:
    async def play() -> None:
        one, two = Player(running.port), Player(running.port)
        for each in (one, two):
            await each.arrive()
            await each.connect()
        await one.start("people")
        await two.start("people")
        await one.hear("state")
        await two.hear("state")
        speaker, listener = (one, two) if one.state["role"] == "speaker" else (two, one)
        game = listener.state["game"]
        await speaker.say("the bird")
        await listener.state_where(phase="acting")
        answers = [json.dumps(listener.heard)]
        paths = ["/api/me", f"/api/games/{game}", f"/api/games/{game}/targets", "/api/operator/state", "/metrics"]
        answers += [(await listener.http.get(path)).text for path in paths]
        for message in ({"type": "say", "turn": 1, "text": "x"}, {"type": "act", "turn": 0, "select": "A"}):
            await listener.send(game=game, **message)
        await listener.hear("acknowledged")
        await listener.send(type="leave", game=game)
        await listener.state_where(phase="over")
        answers.append(json.dumps(listener.heard))
        targets = running.rooms.tables[game].context.targets
        for answer in answers:
            assert "target" not in answer and "mark" not in answer
            assert json.dumps(sorted(targets)) not in answer
        for each in (one, two):
            await each.close()

    asyncio.run(play())


@pytest.mark.parametrize(
    ("headers", "origin"),
    [
        ({}, "own"),
        ({"Cookie": "respect_player=forged"}, "own"),
        ({"Cookie": "respect_player=" + "A" * 5000}, "own"),
        (None, "https://evil.example"),
        (None, None),
    ],
)
def test_no_socket_without_a_cookie_of_here_or_from_another_page(
    running: Running, headers: dict[str, str] | None, origin: Any
) -> None:
    async def play() -> None:
        one = Player(running.port)
        await one.arrive()
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(
                f"ws://127.0.0.1:{running.port}/ws",
                additional_headers=headers if headers is not None else {"Cookie": one.cookie},
                origin=one.origin if origin == "own" else origin,
            )
        assert refused.value.response.status_code == 403
        await one.close()

    asyncio.run(play())


def test_too_large_and_binary_messages(running: Running) -> None:
    async def play() -> None:
        async with player(running.port) as one, player(running.port) as two:
            await two.socket.send(b"\x00\xff")
            assert (await two.hear("refused"))["reason"] == "send text"
            await one.socket.send("x" * 1_000_000)
            assert await _closed(one) == 1009

    asyncio.run(play())


def test_requests_that_no_page_sends(running: Running) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{running.port}", timeout=60) as client:
        codes = {
            "another page": client.post("/api/arrive", json={}, headers={"Origin": "https://evil.example"}),
            "a form": client.post("/api/arrive", data={"participant": "p"}),
            "text": client.post("/api/arrive", content="{}", headers={"Content-Type": "text/plain"}),
            "no type": client.post("/api/arrive", content="{}"),
            "a megabyte": client.post("/api/arrive", json={"participant": "x" * 1_000_000}),
            "not JSON": client.post("/api/arrive", content="{", headers={"Content-Type": "application/json"}),
            "too many fields": client.post("/api/arrive", json={"<b>": 1}),
            "a long id": client.post("/api/arrive", json={"participant": "p" * 129}),
            "nobody": client.post("/api/games", json={"mode": "policy"}),
            "a picture elsewhere": client.get("/api/images/..%2F..%2Fmlflow.png"),
            "no picture": client.get("/api/images/none.png"),
            "no such page": client.get("/api/openapi.json"),
        }
        expected = [403, 415, 415, 415, 413, 422, 422, 422, 401, 404, 404, 404]
        assert [answer.status_code for answer in codes.values()] == expected, codes
        for answer in codes.values():
            assert "<b>" not in answer.text and "ppp" not in answer.text
            assert "script-src 'self'" in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
        arrived = client.post("/api/arrive", json={})
        cookie = arrived.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        assert client.get("/health").json() == {"status": "ok"}
        assert "respect_game_now" in client.get("/metrics").text


@pytest.mark.parametrize(("page", "inside", "token"), [("operator", "state", "o" * 16), ("annotate", "next", "a" * 16)])
def test_a_stolen_cookie_of_a_desk_ends_with_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, inside: str, token: str
) -> None:
    """Also where the browser that held it signed out, as nothing but time ends a copy."""
    now = [int(time.time())]
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _: now[0])
    tokens = {"operator_token": "o" * 16, "annotator_tokens": {"a" * 16: "ann"}}
    with serving(rooms(tmp_path / "run", signed_in=3.0, **tokens)) as running:
        origin, path = f"http://127.0.0.1:{running.port}", f"/api/{page}/{inside}"
        with httpx.Client(base_url=origin, timeout=60) as client:
            answer = client.post(f"/api/{page}/login", json={"token": token})
            cookie = answer.headers["set-cookie"].partition(";")[0]
            assert answer.status_code == 200 and token not in cookie and "Max-Age=3;" in answer.headers["set-cookie"]

        def code(kept: str) -> int:
            return httpx.get(origin + path, headers={"Cookie": kept}, timeout=60).status_code

        name, _, value = cookie.partition("=")
        of, issued, signature = value.split(".")
        later = base64_encode(int_to_bytes(bytes_to_int(base64_decode(issued)) + 9)).decode()
        forged = [
            f"{of}.{later}.{signature}",
            f"{of}.{issued}.{'0' * 43}",
            f"{issued}.{signature}",
            signature,
            "..",
            "x.y",
        ]
        assert [code(f"{name}={each}") for each in forged] == [401] * len(forged)
        now[0] += 2
        assert code(cookie) == 200
        now[0] += 1
        assert code(cookie) == 401, "the same bytes, a moment later"
        assert httpx.get(origin + path, headers={"Authorization": f"Bearer {token}"}, timeout=60).status_code == 200


def test_floods_are_stopped_and_the_others_play_on(tmp_path_factory: pytest.TempPathFactory) -> None:
    limits = Limits(messages=(5.0, 20.0), requests=(0.1, 60.0), arrivals=(0.01, 3.0), refusals=10)
    with serving(rooms(tmp_path_factory.mktemp("flood"), limits=limits)) as running:

        async def play() -> None:
            async with player(running.port) as quiet, player(running.port) as loud, player(running.port) as wrong:
                await _in_a_game(quiet)
                with contextlib.suppress(websockets.ConnectionClosed):
                    for number in range(100):
                        await loud.send(type="ping", at=number)
                assert await _closed(loud) == 1008
                with contextlib.suppress(websockets.ConnectionClosed):
                    for _ in range(10):
                        await wrong.socket.send("nonsense")
                assert await _closed(wrong) == 1008
                fourth = await httpx.AsyncClient(base_url=quiet.origin, timeout=60).post("/api/arrive", json={})
                assert fourth.status_code == 429
                async with httpx.AsyncClient(base_url=quiet.origin, timeout=60) as client:
                    codes = [(await client.get("/health")).status_code for _ in range(120)]
                assert 429 in codes and 500 not in codes
                await quiet.say("select A")
                await quiet.state_where(turn=1)

        asyncio.run(play())


def test_a_cookie_lets_nobody_arrive_as_ever_new_people(tmp_path_factory: pytest.TempPathFactory) -> None:
    limits = dataclasses.replace(LOOSE, arrivals=(0.001, 3.0))
    with serving(rooms(tmp_path_factory.mktemp("arrivals"), limits=limits)) as running, httpx.Client() as client:

        def arrives(participant: str | None) -> int:
            address = f"http://127.0.0.1:{running.port}/api/arrive"
            return client.post(address, json={"participant": participant}, timeout=60).status_code

        assert [arrives(f"p{number}") for number in range(5)] == [200, 200, 200, 429, 429]
        assert [arrives(None), arrives("p2")] == [200, 200], "who comes back arrives as often as they like"
        assert len(running.rooms.players) == 3


def test_practice_begun_again_and_again_takes_one_table(tmp_path_factory: pytest.TempPathFactory) -> None:
    limits = dataclasses.replace(LOOSE, tables=4)
    with serving(rooms(tmp_path_factory.mktemp("practice"), limits=limits)) as running:

        async def play() -> None:
            async with player(running.port) as loud, player(running.port) as quiet:
                for _ in range(20):
                    answer = await loud.http.post("/api/games", json={"mode": "policy", "practice": True})
                    assert answer.status_code == 200, answer.text
                await _in_a_game(quiet)
                last = str((await loud.state_where(game=answer.json()["game"]))["game"])
                assert set(running.rooms.tables) == {last, quiet.state["game"]}
                await _in_a_game(loud)  # for which practice is left, too
                assert last not in running.rooms.tables

        asyncio.run(play())
