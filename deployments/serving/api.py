"""Offer the HTTP interface over anything that acts: the server in this process, or one that does the same elsewhere.

No reply and no log line repeats what a user wrote.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from deployments.clients import SmallBodies
from deployments.failures import place_of
from deployments.serving.base import NotLoggedError, NotReadyError, UnknownVariantError
from deployments.serving.metrics import Metrics
from deployments.serving.probes import add_probes, complaint
from deployments.serving.schema import ActReply, ActRequest, Fits, Name, Problem, Readiness
from deployments.serving.server import TooLongError
from respect_core.acting.batcher import OverloadedError
from respect_core.errors import ExpectedError
from respect_core.store.base import MissingKeyError, StoreError

log = logging.getLogger(__name__)
LARGEST_BODY = 128 * 1024
"""In bytes; the largest request of MULTIREF, with every character escaped, is half as large."""
_PROBLEMS: dict[int | str, dict[str, Any]] = {code: {"model": Problem} for code in (404, 413, 422, 500, 503)}


class AnsweredError(ExpectedError):
    """A refusal whose whole answer, status code and text, was made by an actor elsewhere."""

    def __init__(self, status: int, problem: Problem) -> None:
        super().__init__(status, problem)
        self.status, self.problem = status, problem


class Actor(Protocol):
    """The server behind the interface."""

    metrics: Metrics

    def start(self) -> None: ...
    def close(self) -> None: ...
    async def act(self, request: ActRequest) -> ActReply: ...
    async def check(self, request: ActRequest) -> Fits: ...
    def end(self, variant: str, game: str) -> None: ...
    def readiness(self) -> Readiness: ...
    def prometheus(self) -> bytes: ...


def create_app(actor: Actor) -> FastAPI:
    """Build the application; `actor` starts and closes with it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        actor.start()
        yield
        actor.close()

    app = FastAPI(title="RESPECT policy server", lifespan=lifespan)
    app.add_middleware(SmallBodies, largest=LARGEST_BODY)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)

    @app.post("/act", response_model=ActReply, responses=_PROBLEMS)
    async def act(request: ActRequest) -> Response:
        """Return the policy's action in a game."""
        status, answer = await respond(actor.act, request)
        actor.metrics.responses.labels(str(status)).inc()
        headers = {"Retry-After": "1"} if status == 503 else None
        return JSONResponse(answer.model_dump(), status, headers)

    @app.post("/check", response_model=Fits, responses=_PROBLEMS)
    async def check(request: ActRequest) -> Response:
        """Check whether a policy could act on this: 422 names what is wrong or too long. Nothing is drawn or logged."""
        status, answer = await respond(actor.check, request)
        return JSONResponse(answer.model_dump(), status)

    @app.delete("/games/{variant}/{game}", status_code=204)
    def end(variant: Annotated[str, Path(max_length=40)], game: Name) -> None:
        """End a game: its version need not be kept for it any more."""
        actor.end(variant, game)

    add_probes(app, actor)
    return app


async def respond(
    act: Callable[[ActRequest], Awaitable[ActReply | Fits]], request: ActRequest
) -> tuple[int, ActReply | Fits | Problem]:
    """Return the result of `Actor.act` or `Actor.check`, as status code and body."""
    try:
        return 200, await act(request)
    except AnsweredError as error:
        return error.status, error.problem
    except UnknownVariantError as error:
        return 404, Problem(field="variant", reason=str(error))
    except TooLongError as error:
        return 422, Problem(field=error.field, reason=str(error))
    except MissingKeyError:
        return 422, Problem(field="context", reason="names an image that the store does not have; put it there first")
    except StoreError:
        return 503, Problem(reason="the store does not give the images of this context")
    except (NotReadyError, NotLoggedError, OverloadedError) as error:
        return 503, Problem(reason=str(error))
    except Exception as error:
        log.error("in an act: %s", place_of(error))
        return 500, Problem(reason=f"internal error ({type(error).__name__}); the server's log has more")


async def _invalid(_request: Request, error: Any) -> JSONResponse:
    """Return the first complaint, without the input."""
    field, reason = complaint(error)
    if not field and ": " in reason:  # a check over several fields names its own
        field, _, reason = reason.partition(": ")
    return JSONResponse(Problem(field=field, reason=reason).model_dump(), 422)


async def _refused(_request: Request, error: Any) -> JSONResponse:
    return JSONResponse(Problem(reason=str(error.detail)).model_dump(), error.status_code, error.headers)
