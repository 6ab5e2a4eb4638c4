"""Let the operator, who has a token, watch a study, stop and start it, and read the payments."""

from __future__ import annotations

import csv
import io
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from deployments.game.engine.rooms import Rooms
from deployments.web.denied import RequestDeniedError
from deployments.web.refusals import PROBLEMS
from deployments.web.sign_in import OPERATOR

COLUMNS = ("user", "game", "policy", "role", "ended", "pay", "bonus", "currency")
"""Columns of payments; `user` is the pseudonym of the participant's id (`respect_core.log.pseudonyms.pseudonym`)."""
router = APIRouter(prefix="/api/operator", responses=PROBLEMS)


def _rooms(request: Request, _: Annotated[str, Depends(OPERATOR)]) -> Rooms:
    rooms: Rooms = request.app.state.rooms
    return rooms


TheRooms = Annotated[Rooms, Depends(_rooms)]


OPERATOR.add_to(router)


@router.get("/state")
async def state(rooms: TheRooms) -> dict[str, Any]:
    """Return games by policy, success so far with its interval, and how many players are here."""
    return await standing(rooms)


@router.post("/stop")
async def stop(rooms: TheRooms) -> dict[str, Any]:
    """Let no further game of the study begin; running ones are played to their end."""
    await set_open(rooms, False)
    return await standing(rooms)


@router.post("/start")
async def start(rooms: TheRooms) -> dict[str, Any]:
    """Let games of the study begin again."""
    await set_open(rooms, True)
    return await standing(rooms)


@router.get("/payments.csv", response_class=Response, responses={200: {"content": {"text/csv": {}}}})
async def payments(rooms: TheRooms) -> Response:
    """Return a row for each person of each game, and for each unsuccessful wait."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rooms.study.payments() if rooms.study else [])
    headers = {"Content-Disposition": 'attachment; filename="payments.csv"'}
    return Response(text.getvalue(), media_type="text/csv", headers=headers)


async def standing(rooms: Rooms) -> dict[str, Any]:
    """Describe the study, or free play, without anything about who plays."""
    free: dict[str, Any] = {
        "name": None,
        "round": rooms.settings.round,
        "open": True,
        "policies": [],
        "released": 0,
        "payment": None,
    }
    return (await rooms.study.state() if rooms.study else free) | {
        "players": len(rooms.players),
        "connected": len(rooms.connections),
        "lobby": len(rooms.lobby),
        "running": sum(table.ending is None for table in rooms.tables.values()),
        "unstored": len(rooms.archiver.unstored),
        "versions": dict(rooms.listener.ready()),
    }


async def set_open(rooms: Rooms, is_open: bool) -> None:
    """Open or close the study to people; running games continue. Raises NotWrittenError and RequestDeniedError."""
    if rooms.study is None:
        raise RequestDeniedError(409, "study", "no study is loaded; start with --study")
    await rooms.journal.write({"kind": "study", "study": rooms.study.file.name, "open": is_open})
    rooms.study.open = is_open
