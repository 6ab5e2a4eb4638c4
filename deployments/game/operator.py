"""The operator's side of a study: how far it is, stop and start, payments. Behind a token."""

from __future__ import annotations

import csv
import io
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from deployments.game import tokens
from deployments.game.api import PROBLEMS
from deployments.game.door import Denied
from deployments.game.rooms import Rooms

COOKIE = "respect_operator"
COLUMNS = ("user", "game", "policy", "role", "ended", "pay", "bonus", "currency")
"""Of the payments; `user` is the pseudonym of the participant's id (`respect_core.interaction.pseudonym`)."""
router = APIRouter(prefix="/api/operator", responses=PROBLEMS)


def _operator(request: Request) -> None:
    """Raises Denied without the operator's token."""
    token = _token(request)
    if tokens.held(request, COOKIE, [token]) is None:
        raise Denied(401, "token", "sign in with the operator's token")


def _token(request: Request) -> str:
    token: str | None = request.app.state.settings.operator_token
    if token is None:
        raise Denied(403, "token", "this page is closed: start the server with RESPECT_OPERATOR_TOKEN set")
    return token


def _rooms(request: Request, _: Annotated[None, Depends(_operator)]) -> Rooms:
    rooms: Rooms = request.app.state.rooms
    return rooms


TheRooms = Annotated[Rooms, Depends(_rooms)]


@router.post("/login")
async def login(request: Request, response: Response, given: tokens.Login) -> dict[str, bool]:
    """Sign a browser in, for a day."""
    token = _token(request)
    if not tokens.same(given.token, token):
        raise Denied(401, "token", "this is not the operator's token")
    tokens.remember(response, COOKIE, token, secure=request.app.state.settings.secure)
    return {"signed_in": True}


@router.post("/logout")
async def logout(response: Response) -> dict[str, bool]:
    """Sign it out."""
    response.delete_cookie(COOKIE)
    return {"signed_in": False}


@router.get("/state")
async def state(rooms: TheRooms) -> dict[str, Any]:
    """Games by policy, success so far with its interval, and who is here."""
    return await rooms.operator_state()


@router.post("/stop")
async def stop(rooms: TheRooms) -> dict[str, Any]:
    """No game of the study begins from here on; those that run go on to their end."""
    return await _opened(rooms, False)


@router.post("/start")
async def start(rooms: TheRooms) -> dict[str, Any]:
    """The study takes people again."""
    return await _opened(rooms, True)


@router.get("/payments.csv", response_class=Response, responses={200: {"content": {"text/csv": {}}}})
async def payments(rooms: TheRooms) -> Response:
    """A row for each person of each game, and for each wait in vain."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rooms.payments())
    headers = {"Content-Disposition": 'attachment; filename="payments.csv"'}
    return Response(text.getvalue(), media_type="text/csv", headers=headers)


async def _opened(rooms: Rooms, open: bool) -> dict[str, Any]:
    try:
        await rooms.set_open(open)
    except ValueError as error:
        raise Denied(409, "study", str(error)) from None
    return await rooms.operator_state()
