"""Offer the gateway over HTTP, as OpenAI's chat API; no answer but the assistant's, and no log line, repeats a user.

A reply is in the log before its end is sent. While it is written, the client's connection is watched: if it closes, the
reply is stopped, and logged as cut.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from deployments.clients import SmallBodies, household
from deployments.failures import place_of
from deployments.serving.base import NotLoggedError, NotReadyError
from deployments.serving.gateway import operator
from deployments.serving.gateway.gateway import Caller, Gateway
from deployments.serving.gateway.live import Live
from deployments.serving.gateway.turn import Turn
from deployments.serving.gateway.wire import DONE, ApiError, ChatRequest, event
from deployments.serving.probes import add_probes, complaint
from respect_core.acting.batcher import OverloadedError
from respect_core.log.pseudonyms import network
from respect_core.store.base import StoreError

log = logging.getLogger(__name__)
LARGEST_BODY = 1 << 20
"""In bytes."""
_CONVERSATION = ("x-conversation-id", "x-openwebui-chat-id")
_CONSENT = ("x-consent",)
_USER = ("x-user-id", "x-openwebui-user-id")


def create_app(
    gateway: Gateway[Any],
    keys: Mapping[str, str] | None = None,
    live: Live | None = None,
    operators: operator.Settings | None = None,
) -> FastAPI:
    """Build the application; the gateway and its live evidence start and close with it.

    Args:
        keys: who may ask, by key; everybody where there are none.
        operators: who may see the live evidence; without them, it has no page.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        gateway.start()
        if live is not None:
            live.start()
        yield
        if live is not None:
            await asyncio.to_thread(live.close)
        await asyncio.to_thread(gateway.close)

    app = FastAPI(title="RESPECT gateway", lifespan=lifespan)
    app.add_middleware(SmallBodies, largest=LARGEST_BODY)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(ApiError, _answered)

    def admitted(request: Request) -> str | None:
        """Return the name that a key stands for. Raises ApiError for no key, where keys are asked for."""
        if not keys:
            return None
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        names = [name for key, name in keys.items() if hmac.compare_digest(key.encode(), given.strip().encode())]
        if scheme.lower() != "bearer" or not names:
            raise ApiError(401, "no such key; send one as `Authorization: Bearer KEY`", code="invalid_api_key")
        return names[0]

    admission = Depends(admitted)  # before what a request says is looked at

    @app.post("/v1/chat/completions")
    async def complete(request: Request, body: ChatRequest, key: str | None = admission) -> Response:
        """Write the assistant's next message, at once or as a stream."""
        host = household(request.client.host) if request.client else "unknown"
        name = body.user or _header(request, _USER)
        user = name or f"anonymous at {host}"
        caller = Caller(
            f"{key}/{user}" if key else user,
            _header(request, _CONVERSATION) or body.named("conversation_id"),
            _header(request, _CONSENT) or body.named("consent"),
            address_prefix=None if key and name else network(host),  # else of the client, whose users share it
            signed_in=bool(name) if key else None,  # without keys, nobody but this machine asks
        )
        turn = await _refusals(gateway.begin(body, caller))
        headers = {"x-respect-version": turn.served.name}
        failed = gateway.metrics.failed.labels(turn.assigned.variant, turn.served.name).inc
        if body.stream:
            return _Watched(turn, lambda: _events(turn, body), headers | {"cache-control": "no-cache"}, failed)
        return _Watched(turn, lambda: _whole(turn), headers, failed)

    @app.get("/v1/models", dependencies=[admission])
    def models() -> dict[str, object]:
        """List the models: `respect`, of which chance chooses the variant, and each variant."""
        return {"object": "list", "data": [_model(name) for name in gateway.models()]}

    @app.get("/v1/models/{name}", dependencies=[admission])
    def model(name: str) -> dict[str, object]:
        """Return a model."""
        if name not in gateway.models():
            raise ApiError(404, "no such model here", code="model_not_found", param="model")
        return _model(name)

    add_probes(app, gateway)
    if live is not None:
        gateway.metrics.add(live)
        if operators is not None:
            app.mount(operator.PATH, operator.create_operator_app(operators, live, gateway.metrics.failures))
    return app


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "respect"}


def _header(request: Request, names: tuple[str, ...]) -> str | None:
    return next((value[:512] for name in names if (value := request.headers.get(name))), None)


class _Watched(Response):
    """A response that is made while its client waits, and stops where the client goes away.

    Args:
        body: yields the parts of the body; the first decides the status.
        failed: is called where they end with an error.
    """

    def __init__(
        self,
        turn: Turn,
        body: Callable[[], AsyncIterator[tuple[str, bytes]]],
        headers: Mapping[str, str],
        failed: Callable[[], None],
    ) -> None:
        super().__init__(headers=dict(headers))
        self._turn, self._body, self._failed = turn, body, failed

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        writing, gone = asyncio.create_task(self._write(send)), asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({writing, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writing, gone):
                task.cancel()
            await asyncio.gather(writing, gone, return_exceptions=True)
            await asyncio.to_thread(self._turn.cut)  # masking takes time

    async def _write(self, send: Send) -> None:
        started = False
        async with aclosing(self._parts()) as parts:  # type: ignore[type-var]  # a generator
            async for status, kind, data in parts:
                if not started:
                    head = {"content-type": kind, **self.headers}
                    head.pop("content-length", None)
                    raw = [(name.encode(), value.encode()) for name, value in head.items()]
                    await send({"type": "http.response.start", "status": status, "headers": raw})
                    started = True
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _parts(self) -> AsyncIterator[tuple[int, str, bytes]]:
        """Yield status, content type and data; a failure after the first part becomes an event of the stream."""
        streaming = False
        try:
            async with aclosing(self._body()) as body:  # type: ignore[type-var]  # a generator
                async for kind, data in body:
                    yield 200, kind, data
                    streaming = True
        except Exception as error:
            self._failed()
            refusal = _refusal(error)
            if streaming:
                yield 200, "", event(refusal.body)
            else:
                yield refusal.status, "application/json", bytes(JSONResponse(refusal.body).body)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _whole(turn: Turn) -> AsyncIterator[tuple[str, bytes]]:
    logprobs = []
    async for piece in turn.pieces():
        for _ in turn.deltas.feed(piece.text):
            pass
        logprobs += turn.logprobs(piece)
    for _ in turn.deltas.end():
        pass
    await asyncio.to_thread(turn.record)
    answer = turn.answer.whole(turn.deltas.message(), turn.finish_reason, logprobs, turn.usage)
    yield "application/json", bytes(JSONResponse(answer).body)


async def _events(turn: Turn, request: ChatRequest) -> AsyncIterator[tuple[str, bytes]]:
    kind, chunk = "text/event-stream; charset=utf-8", turn.answer.chunk
    yield kind, chunk({"role": "assistant", "content": ""})
    async for piece in turn.pieces():
        logprobs = turn.logprobs(piece) if request.logprobs else []
        for delta in turn.deltas.feed(piece.text):
            yield kind, chunk(delta, logprobs=logprobs)
            logprobs = []
        if logprobs:
            yield kind, chunk({}, logprobs=logprobs)
    for delta in turn.deltas.end():
        yield kind, chunk(delta)
    await asyncio.to_thread(turn.record)
    yield kind, chunk({}, turn.finish_reason)
    if request.stream_options and request.stream_options.include_usage:
        yield kind, turn.answer.usage(turn.usage)
    yield kind, DONE


async def _refusals(begin: Awaitable[Turn]) -> Turn:
    """Raise whatever keeps a turn from beginning as an ApiError."""
    try:
        return await begin
    except Exception as error:
        raise _refusal(error) from None


def _refusal(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    retry = {"Retry-After": "1"}
    if isinstance(error, OverloadedError):
        return ApiError(429, str(error), code="rate_limit_exceeded", headers=retry)
    if isinstance(error, NotReadyError | NotLoggedError):
        return ApiError(503, str(error), headers=retry)
    if isinstance(error, StoreError):
        return ApiError(503, "the store does not answer", headers=retry)
    log.error("in a chat: %s", place_of(error))
    return ApiError(500, f"internal error ({type(error).__name__}); the server's log has more")


async def _answered(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, error.headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Return the first complaint, without the input."""
    assert isinstance(error, RequestValidationError)
    field, reason = complaint(error)
    return await _answered(request, ApiError(400, f"{field or 'body'}: {reason}", param=field or None))


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return await _answered(request, ApiError(error.status_code, str(error.detail), headers=error.headers))
