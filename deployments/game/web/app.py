"""Assemble the application: pages, /api, the socket, /health and /metrics, behind one guard."""

from __future__ import annotations

import gc
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from deployments.clients import SmallBodies
from deployments.game.domain.protocol import LARGEST_BODY
from deployments.game.durability.journal import NotWrittenError
from deployments.game.engine import recovery
from deployments.game.engine.admission import Admission
from deployments.game.engine.rooms import Rooms
from deployments.game.web import annotation, api, operator, pages, sockets
from deployments.web import refusals
from deployments.web.limits import Buckets, Guard, address
from deployments.web.refusals import problem
from respect_core.store.base import StoreError

log = logging.getLogger(__name__)


def create_app(rooms: Rooms, *, seed: int | None = None) -> FastAPI:
    """Build the application over rooms, which resume what the journal says, and start and close with it.

    Args:
        seed: of choices outside a study (roles, contexts), for tests.

    Raises:
        KeyChangedError: ids of the journal became pseudonyms under another RESPECT_USER_KEY.
    """
    limits = rooms.settings.limits
    admission = Admission(rooms, random.Random(seed) if seed is not None else random.SystemRandom())

    recovery.recover(rooms)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await rooms.start()
        rooms.background.keep("lobby", admission.watch)
        rooms.background.once(admission.prepare())
        gc.collect()
        gc.freeze()  # else each full collection walks through all libraries and holds up every game meanwhile
        yield
        await rooms.close()

    app = FastAPI(title="RESPECT game", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.rooms, app.state.admission, app.state.settings = rooms, admission, rooms.settings
    app.state.arrivals = Buckets(*limits.arrivals, limits.addresses, rooms.clock)
    requests = Buckets(*limits.requests, limits.addresses, rooms.clock)
    app.add_middleware(SmallBodies, largest=LARGEST_BODY)
    app.add_middleware(Guard, requests=requests, origins=rooms.settings.origins)
    for error, handler in HANDLERS.items():
        app.add_exception_handler(error, handler)
    for part in (api, pages, operator, annotation):
        app.include_router(part.router)

    @app.websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        await sockets.serve(socket, rooms, admitted=requests.take(address(socket)))

    @app.get("/health")
    async def health(response: Response) -> dict[str, Any]:
        """Answer 200 if all that should run does; else 503, with what has failed."""
        down = sorted(rooms.background.down | (set() if rooms.journal.alive else {"journal"}))
        response.status_code = 503 if down else 200
        return {"status": "failing", "down": down} if down else {"status": "ok"}

    @app.get("/ready")
    async def ready(response: Response) -> dict[str, Any]:
        """Answer 200 if people get their games, since a policy can act, or each that the study asks for; else 503."""
        missing = rooms.missing_policies()
        response.status_code = 503 if missing else 200
        return {"ready": not missing, "lacking": missing}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Return the metrics for Prometheus, with those of a policy server in this process."""
        own = rooms.metrics.text(
            games=sum(table.ending is None for table in rooms.tables.values()),
            sockets=len(rooms.connections),
            lobby=len(rooms.lobby),
            unstored=len(rooms.archiver.unstored),
            set_aside=len(rooms.archiver.set_aside),
            players=len(rooms.players),
        )
        return Response(own + rooms.listener.prometheus(), media_type=CONTENT_TYPE_LATEST)

    return app


async def _away(_request: Request, error: Any) -> JSONResponse:
    log.error("%s: %s", type(error).__name__, error)
    return problem(503, sockets.NOT_SAVED, {"Retry-After": "2"})


HANDLERS: dict[Any, Any] = refusals.HANDLERS | {NotWrittenError: _away, StoreError: _away}
