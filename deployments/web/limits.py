"""Protect from hostile or broken clients: token buckets, types and origins of requests, headers."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.clients import Bucket, household
from deployments.failures import place_of
from deployments.web.refusals import problem

log = logging.getLogger(__name__)
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Buckets:
    """A bucket for each key, of as many keys as were used last."""

    def __init__(self, rate: float, most: float, keys: int, clock: Callable[[], float]) -> None:
        self._rate, self._most, self._keys, self._clock = rate, most, keys, clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, key: str) -> bool:
        """Whether the key had a token."""
        now = self._clock()
        bucket = self._buckets.pop(key, None) or Bucket(self._rate, self._most, now)
        self._buckets[key] = bucket
        if len(self._buckets) > self._keys:
            self._buckets.popitem(last=False)
        return bucket.take(now)


def own_origin(connection: HTTPConnection, allowed: tuple[str, ...], *, required: bool) -> bool:
    """Whether a browser sent it from this page. `required`: also where no browser says where it comes from."""
    origin = connection.headers.get("origin")
    if origin is None:
        return not required
    try:
        host = urlsplit(origin).netloc
    except ValueError:
        return False
    return origin in allowed or (bool(host) and host == connection.headers.get("host"))


class Guard:
    """Middleware of HTTP requests: 415, 403 and 429 before anything reads them, and headers on every answer.

    Args:
        requests: a token for each request of an address.
        origins: allowed besides the page's own.
    """

    def __init__(self, app: ASGIApp, *, requests: Buckets, origins: tuple[str, ...]) -> None:
        self._app, self._requests, self._origins = app, requests, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def headed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refused = self._refused(scope)
        try:
            await (refused or self._app)(scope, receive, headed)
        except Exception as error:
            log.error("%s", place_of(error))
            if not started:
                await problem(500, "internal error; the server's log has more")(scope, receive, headed)

    def _refused(self, scope: Scope) -> JSONResponse | None:
        connection, headers = HTTPConnection(scope), Headers(scope=scope)
        if not self._requests.take(address(connection)):
            return problem(429, "too many requests; try again in a moment", {"Retry-After": "1"})
        if scope["method"] in ("GET", "HEAD"):
            return None
        if not own_origin(connection, self._origins, required=False):
            return problem(403, "this was sent from another page")
        if scope["path"].removeprefix(scope.get("root_path", "")).startswith("/api/"):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return problem(415, "send application/json")
        return None


def address(connection: HTTPConnection) -> str:
    """Of the client; behind a trusted proxy uvicorn has put its client here. Of IPv6, a household's /64."""
    return household(connection.client.host) if connection.client else "unknown"
