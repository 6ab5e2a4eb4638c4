"""Players who are remembered, and pictures that are looked for."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from game_servers import LOOSE, Player, player, rooms, serving

from deployments.game.engine.images import Images
from deployments.game.engine.settings import Limits
from respect_core.store.base import MissingKeyError, Store
from respect_core.store.images import image_key
from respect_core.store.open import open_store

pytestmark = pytest.mark.timeout(300)


@pytest.mark.heavy
def test_who_waits_for_a_partner_is_not_forgotten_for_those_who_only_arrive(tmp_path: Path) -> None:
    limits = Limits(LOOSE.messages, LOOSE.requests, LOOSE.arrivals, newcomers=3)

    async def play(port: int) -> None:
        async with player(port) as first:
            assert await first.start("people") == {"lobby": True}
            for _ in range(8):
                passer_by = Player(port)
                await passer_by.arrive()
                await passer_by.close()
            assert (await first.http.get("/api/me")).json()["in_lobby"]
            async with player(port) as second:
                assert "game" in await second.start("people")
                await first.hear("state")

    with serving(rooms(tmp_path, limits=limits)) as running:
        asyncio.run(play(running.port))
        assert len(running.rooms.players) <= 5


class Slow:
    """A store that takes its time, and lacks every picture but one."""

    def __init__(self, place: Store) -> None:
        self.place, self.asked, self.go = place, list[str](), threading.Event()

    def read(self, key: str) -> bytes:
        self.asked.append(key)
        self.go.wait(30)
        if key != image_key("there"):
            raise MissingKeyError(key)
        return b"png"


def test_only_pictures_that_somebody_sees_are_looked_for_and_a_miss_is_remembered(tmp_path: Path) -> None:
    store = Slow(open_store(tmp_path))
    store.go.set()
    images = Images(store, absent=600.0)  # type: ignore[arg-type]  # reads as a store does
    images.show(["there", "lacking"])

    async def ask() -> None:
        assert [await images.png("there") for _ in range(3)] == [b"png"] * 3
        assert [await images.png("lacking") for _ in range(3)] == [None] * 3
        assert await images.png("unknown") is None
        assert store.asked == [image_key("there"), image_key("lacking")]
        images._missing_since["lacking"] -= 600.0  # they have passed
        await images.png("lacking")
        assert store.asked[2:] == [image_key("lacking")], "it may have come"

    asyncio.run(ask())
    images.close()


def test_pictures_of_a_slow_store_hold_up_no_other_work(tmp_path: Path) -> None:
    store = Slow(open_store(tmp_path))
    images = Images(store, threads=2)  # type: ignore[arg-type]  # reads as a store does
    images.show(str(number) for number in range(60))

    async def ask() -> None:
        waiting = [asyncio.create_task(images.png(str(number % 60))) for number in range(120)]
        while len(store.asked) < 2:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        await asyncio.to_thread(lambda: None)
        assert time.monotonic() - began < 5 and len(store.asked) == 2
        store.go.set()
        assert await asyncio.gather(*waiting) == [None] * 120
        assert len(store.asked) == 60, "those who ask for the same at the same time share a reading"

    asyncio.run(ask())
    images.close()


def test_pictures_of_a_game_are_seen(tmp_path: Path) -> None:
    async def play(port: int) -> None:
        async with player(port) as one:
            await one.start(variant="b-fft")
            state: Any = await one.state_where(phase="writing")
            for each in state["images"]:
                answer = await one.http.get(f"/api/images/{each['image']}.png")
                assert answer.status_code == 200 and answer.content.startswith(b"\x89PNG")

    with serving(rooms(tmp_path)) as running:
        asyncio.run(play(running.port))
        assert httpx.get(f"http://127.0.0.1:{running.port}/api/images/none.png", timeout=60).status_code == 404
