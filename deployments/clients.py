"""Keep slow and greedy clients off a server, below its application: caps on connections, and deadlines.

uvicorn waits for the rest of a request as long as a client likes, and accepts connections until the process has no file
descriptors left for its own journal and store. Here a request must be complete within `seconds`; connections are capped
per address and in total, and so is the rate of a socket's control frames. A client that exceeds a limit is cut off
without an answer; `SmallBodies`, which an application puts in front of itself, answers.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

log = logging.getLogger(__name__)
_DESCRIPTORS = 65_536  # how many to ask for
_BACKLOG = 128  # connections accepted before any of them is handled
_OWN = 192  # descriptors for those, the journal, the store and the registry


class Bucket:
    """A token bucket, refilled at `rate` per second up to `most`."""

    def __init__(self, rate: float, most: float, now: float) -> None:
        self._rate, self._most, self._tokens, self._at = rate, most, most, now

    def take(self, now: float) -> bool:
        """Take a token; return whether there was one."""
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class SmallBodies:
    """Middleware: 413 once a body has more than `largest` bytes, whatever its header says."""

    def __init__(self, app: ASGIApp, largest: int) -> None:
        self._app, self._largest = app, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._largest:
                raise HTTPException(413, f"the body has more than {self._largest} bytes", {"Connection": "close"})
            return message

        await self._app(scope, counted, send)


@dataclass(frozen=True)
class Caps:
    """Caps on connections and requests."""

    total: int = 4_096  # connections, or fewer if descriptors are scarce
    share: float = 1 / 8  # of the total, that one address may have
    seconds: float = 10.0  # for a request's head and body
    control: tuple[float, float] = (20.0, 100.0)  # control frames and message fragments: per second, and saved up


def household(host: str) -> str:
    """Return the client that an address stands for: for IPv6 its /64; IPv4 written as IPv6 counts as IPv4."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False).network_address)


def raise_descriptors() -> int:
    """Let this process have as many file descriptors as its hard limit allows; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft == resource.RLIM_INFINITY or soft >= limit:
        return _DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


def options(caps: Caps | None = None, *, proxies: str = "") -> dict[str, Any]:
    """Options for uvicorn's Config.

    Args:
        proxies: comma-separated addresses and networks of proxies, which cap addresses themselves; '*' for all.
    """
    gate = {"gate": Gate(caps or Caps(), raise_descriptors(), proxies)}
    return {"http": type("Http", (_Http,), gate), "ws": type("Ws", (_Ws,), gate), "backlog": _BACKLOG}


class Gate:
    """Count connections, per address and in total.

    Args:
        descriptors: how many the process may have.
    """

    def __init__(self, caps: Caps, descriptors: int, proxies: str = "") -> None:
        self.caps = caps
        self.total = max(16, min(caps.total, descriptors - _OWN))
        self.per_address = max(8, int(self.total * caps.share))
        self._trusts = _proxy_test(proxies)
        self._open: dict[asyncio.BaseTransport, str] = {}
        self._of: Counter[str] = Counter()
        self._warned_at = float("-inf")

    def enter(self, transport: asyncio.BaseTransport) -> bool:
        """Count a connection until `leave`; return False if there is no room for it."""
        host = str((transport.get_extra_info("peername") or ("unknown",))[0])
        key = household(host)
        if len(self._open) >= self.total or (self._of[key] >= self.per_address and not self._trusts(host)):
            self._warn(f"{len(self._open)} connections, {self._of[key]} of them from the address that was refused")
            return False
        self._open[transport] = key
        self._of[key] += 1
        return True

    def leave(self, transport: asyncio.BaseTransport) -> None:
        key = self._open.pop(transport, None)
        if key is not None:
            self._of[key] -= 1
            if not self._of[key]:
                del self._of[key]

    def _warn(self, standing: str) -> None:
        """Log a refusal, at most once a minute."""
        if time.monotonic() - self._warned_at >= 60:
            self._warned_at = time.monotonic()
            log.warning("connections are refused: %s", standing)


def _proxy_test(proxies: str) -> Callable[[str], bool]:
    networks = []
    for entry in filter(None, (entry.strip() for entry in proxies.split(","))):
        if entry == "*":
            return lambda _: True
        try:
            networks.append(ipaddress.ip_network(entry, strict=False))
        except ValueError:  # a name or a Unix socket: uvicorn compares it as written
            continue

    def trusts(host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in networks)

    return trusts


class _Http(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # one of two classes, by what is installed
    """HTTP with a deadline for incomplete requests."""

    gate: Gate
    _deadline: asyncio.TimerHandle | None = None
    _upgraded = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if self.gate.enter(transport):
            self._expect()
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gate.leave(self.transport)
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if not self._upgraded and (self.cycle is before or self.cycle.more_body):
            self._expect()
        else:
            self._expect_nothing()

    def handle_websocket_upgrade(self, *args: Any) -> None:
        self._upgraded = True
        super().handle_websocket_upgrade(*args)

    def _expect(self) -> None:
        """Set a deadline for the rest of a request, from its first byte on."""
        if self._deadline is None and self.transport is not None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.gate.caps.seconds, self._late)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        answering = self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete
        if answering:  # the server's turn: what came after the request waits
            self._expect()
        elif not self.transport.is_closing():
            self.transport.abort()


class _Ws(WebSocketsSansIOProtocol):
    """Sockets with a bucket for frames that never reach the application; invalid UTF-8 is not logged."""

    gate: Gate

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._bucket = Bucket(*self.gate.caps.control, time.monotonic())

    def connection_lost(self, exc: Exception | None) -> None:
        self.gate.leave(self.transport)
        super().connection_lost(exc)

    def handle_ping(self) -> None:
        if self._admit():
            super().handle_ping()

    def handle_pong(self, event: Any) -> None:
        if self._admit():
            super().handle_pong(event)

    def handle_cont(self, event: Any) -> None:
        if self._admit():
            super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                if not self.close_sent:
                    self.conn.send_close(1007)
                    self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def _admit(self) -> bool:
        if self.transport.is_closing():
            return False
        if self._bucket.take(time.monotonic()):
            return True
        self.transport.abort()
        return False
