"""Send to a player's socket. Few messages wait for a slow client: of states, only the last counts."""

from __future__ import annotations

import asyncio
from collections import deque

from pydantic import BaseModel
from starlette.websockets import WebSocket, WebSocketDisconnect

from deployments.game.domain.protocol import Elsewhere, State

ELSEWHERE, POLICY, TOO_LARGE = 4001, 1008, 1009  # close codes
_MOST_WAITING = 64  # messages that may wait for a client
_SEND_SECONDS = 20.0  # for a client to take a message


class Connection:
    """A socket that sends in the background, and is closed if its client stops reading."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._waiting: deque[BaseModel] = deque()
        self._state: State | None = None
        self._wake = asyncio.Event()
        self._close_code: int | None = None
        self._task = asyncio.create_task(self._run())

    def send(self, message: BaseModel) -> None:
        """Queue a message. A state replaces one that was not sent yet."""
        if isinstance(message, State):
            self._state = message
        else:
            self._waiting.append(message)
            if len(self._waiting) > _MOST_WAITING:
                self.close(POLICY)
        self._wake.set()

    def close(self, code: int) -> None:
        """Close the socket once all messages are sent."""
        if self._close_code is None:
            self._close_code = code
        self._wake.set()

    def hand_over(self) -> None:
        """Tell the client that another socket has taken its place, and close this one."""
        self._state = None
        self.send(Elsewhere())
        self.close(ELSEWHERE)

    @property
    def closing(self) -> bool:
        return self._close_code is not None

    async def cancel(self) -> None:
        """Stop sending, as the client has closed the socket."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting or self._state is not None:
                    # An acknowledgement is not held back by a state, nor the other way round.
                    message = self._waiting.popleft() if self._waiting else self._state
                    if isinstance(message, State):
                        self._state = None
                    assert message is not None
                    async with asyncio.timeout(_SEND_SECONDS):  # `wait_for` may swallow `cancel`
                        await self._socket.send_text(message.model_dump_json())
                if self._close_code is not None:
                    await self._socket.close(self._close_code)
                    return
        except (WebSocketDisconnect, RuntimeError, OSError, TimeoutError):
            self._close_code = self._close_code or POLICY  # the reader finds out by itself

    async def wait_closed(self) -> None:
        """Wait until all messages are sent and the socket is closed."""
        await asyncio.gather(self._task, return_exceptions=True)
