"""Guard Prefect's and MLflow's servers on the loopback, so that they answer only their own user.

Being on 127.0.0.1 keeps out neither other users of the machine nor a web page that its user visits: a page can send
requests anywhere, and can read the answers if it was loaded under a name that now points here (DNS rebinding).
"""

from __future__ import annotations

import base64
import ctypes
import hmac
import os
import signal
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

OWN_NAMES = ("127.0.0.1", "localhost", "[::1]")
NOT_FROM_HERE = (
    b"Only for pages of this server, as 127.0.0.1 or localhost with its own port; a tunnel must keep the port."
)


_ON_END_OF_PARENT = 1
"""PR_SET_PDEATHSIG, an option of prctl."""


class Guard:
    """Wrap an ASGI application so that it refuses other sites' pages, foreign host names and strangers."""

    def __init__(self, app: App, login: str | None = None) -> None:
        """Wrap an application.

        Args:
            login: 'user:password' that every request must carry (HTTP basic authentication). None for an
                application that asks for it itself.
        """
        self._app = app
        self._expected = None if login is None else b"Basic " + base64.b64encode(login.encode())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if not _from_own_page(scope):
            return await _refuse(scope, send, 403, NOT_FROM_HERE)
        if self._expected is not None and not hmac.compare_digest(_only(scope, b"authorization"), self._expected):
            return await _refuse(scope, send, 401, b"The command that started this server prints the login.")
        return await self._app(scope, receive, send)


def prefect() -> App:
    """Make Prefect's server, which itself asks for PREFECT_SERVER_API_AUTH_STRING."""
    from prefect.server.api.server import create_app

    from flows.support import database

    database.configure()
    return Guard(create_app(final=True))


def mlflow() -> App:
    """Make MLflow's server, which asks for the login of MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.

    It ends with `mlflow server`, which started it: a next one would find its port taken.
    """
    end_with_parent()
    from mlflow.server.fastapi_app import app

    return Guard(app, f"{os.environ['MLFLOW_TRACKING_USERNAME']}:{os.environ['MLFLOW_TRACKING_PASSWORD']}")


def end_with_parent() -> None:
    """Have Linux end this process once the one that started it has ended, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_ON_END_OF_PARENT, signal.SIGTERM)


def _from_own_page(scope: Message) -> bool:
    """Whether the request names this server, and no page but its own sent it."""
    own = {f"{name}:{scope['server'][1]}".encode() for name in OWN_NAMES}
    origins = [value for name, value in scope["headers"] if name == b"origin"]
    return _only(scope, b"host") in own and set(origins) <= {b"http://" + host for host in own}


def _only(scope: Message, wanted: bytes) -> bytes:
    """Return the value of a header that occurs exactly once, else nothing."""
    found = [value for name, value in scope["headers"] if name == wanted]
    return found[0] if len(found) == 1 else b""


async def _refuse(scope: Message, send: Send, status: int, why: bytes) -> None:
    if scope["type"] == "websocket":
        return await send({"type": "websocket.close", "code": 1008})
    headers = [(b"content-type", b"text/plain"), (b"www-authenticate", b'Basic realm="RESPECT"')]
    await send({"type": "http.response.start", "status": status, "headers": headers[: 2 if status == 401 else 1]})
    await send({"type": "http.response.body", "body": why})
