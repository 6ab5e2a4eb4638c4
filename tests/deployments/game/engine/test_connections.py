"""Sockets in the background."""

from __future__ import annotations

import asyncio
from typing import Any

from deployments.game.domain.protocol import Pong
from deployments.game.engine.connections import Connection


class Socket:
    """Takes a message when it is told to."""

    def __init__(self) -> None:
        self.took: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def send_text(self, text: str) -> None:
        await self.took


async def _gone_once_a_message_was_taken(steps: int) -> None:
    socket: Any = Socket()
    connection = Connection(socket)
    connection.send(Pong(at=0.0))
    await asyncio.sleep(0.01)
    socket.took.set_result(None)
    for _ in range(steps):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await connection.cancel()


def test_a_client_that_leaves_as_it_takes_a_message_holds_nothing_up() -> None:
    """Whatever the step at which it leaves: a server that ends waits for it."""
    for steps in range(5):
        asyncio.run(_gone_once_a_message_was_taken(steps))
