"""Show promotions that wait for a person, each with the gate's verdict, and take the answers of who signed in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Annotated
from uuid import UUID

import httpx
from fastapi import APIRouter, Depends, FastAPI, Request
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from pydantic import BaseModel, ConfigDict, StringConstraints

from deployments.clients import SmallBodies
from deployments.web.denied import RequestDeniedError
from deployments.web.limits import Buckets, Guard
from deployments.web.pages import Pages
from deployments.web.people import People
from deployments.web.refusals import HANDLERS, PROBLEMS
from respect_core.release.approvals import Person
from tasks.release import approval

LARGEST_BODY = 8192
_REQUESTS = (5.0, 60.0)
"""From an address: a second, and saved up."""
Connect = Callable[[], AbstractContextManager[SyncPrefectClient]]


class Asked(BaseModel):
    """A promotion that waits."""

    run: UUID
    name: str
    question: str
    text: str
    since: datetime
    until: datetime | None


class Desk(BaseModel):
    """What somebody who signed in sees."""

    name: str
    identified: str
    waiting: list[Asked]


class Answered(BaseModel):
    """Somebody's answer to a promotion that waits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: UUID
    question: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    approve: bool
    note: Annotated[str, StringConstraints(max_length=1000, strip_whitespace=True)] = ""


def person_of(request: Request) -> Person:
    """Return who a request comes from. Raises RequestDeniedError."""
    people: People = request.app.state.people
    return people(request)


ThePerson = Annotated[Person, Depends(person_of)]


def connect() -> AbstractContextManager[SyncPrefectClient]:
    """Return a client of the Prefect server that the environment names."""
    return get_client(sync_client=True)


def create_approvals_app(people: People, connect: Connect = connect) -> FastAPI:
    """Build the application.

    Args:
        connect: a client of Prefect's server.
    """
    app = FastAPI(title="RESPECT approvals", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.people = people
    app.add_middleware(SmallBodies, largest=LARGEST_BODY)
    app.add_middleware(Guard, requests=Buckets(*_REQUESTS, 10_000, time.monotonic), origins=())
    for error, handler in HANDLERS.items():
        app.add_exception_handler(error, handler)
    pages = Pages(Path(__file__).parent / "pages")
    app.add_api_route("/", pages.page("approvals"), methods=["GET"])
    app.add_api_route("/static/{name}", pages.static, methods=["GET"])
    router = APIRouter(prefix="/api", responses=PROBLEMS)
    people.add_to(router)

    def desk(person: Person) -> Desk:
        try:
            with connect() as client:
                found = approval.waiting(client)
        except (httpx.HTTPError, PrefectHTTPStatusError):
            raise RequestDeniedError(503, "", "Prefect cannot be reached; try again in a moment") from None
        return Desk(**person._asdict(), waiting=[Asked(**vars(each)) for each in found])

    def give(person: Person, answered: Answered) -> Desk:
        assert people.link_key is not None  # what signs answers
        try:
            with connect() as client:
                asked = approval.asked_by(client, answered.run)
                if asked is None or asked.question != answered.question:
                    raise approval.NotWaitingError("it no longer waits for this answer; here is what does")
                approval.give(client, asked, person, people.link_key, approve=answered.approve, note=answered.note)
        except approval.NotWaitingError as error:
            raise RequestDeniedError(409, "run", str(error)) from None
        except ObjectNotFound:
            raise RequestDeniedError(409, "run", "there is no such run any more") from None
        except (httpx.HTTPError, PrefectHTTPStatusError):
            raise RequestDeniedError(503, "", "Prefect cannot be reached; try again in a moment") from None
        return desk(person)

    @router.get("/waiting")
    async def waiting(person: ThePerson) -> Desk:
        """Return the promotions that wait, and who is asking."""
        return await asyncio.to_thread(desk, person)

    @router.post("/answer")
    async def answer(person: ThePerson, answered: Answered) -> Desk:
        """Take an answer, and return what still waits."""
        return await asyncio.to_thread(give, person, answered)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Answer that the server runs."""
        return {"status": "ok"}

    app.include_router(router)
    return app
