"""Answer /api: arrival, consent, quiz, practice, and requests for a game. No answer repeats what was sent."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Cookie, Depends, Request, Response

from deployments.game.domain import quiz
from deployments.game.domain.consent import CONSENT
from deployments.game.domain.players import Player
from deployments.game.domain.protocol import (
    Arrive,
    Arrived,
    Consent,
    GameStarted,
    InLobby,
    Me,
    NewGame,
    Practised,
    QuizAnswers,
    QuizQuestion,
    QuizResult,
)
from deployments.game.engine.admission import Admission
from deployments.game.engine.rooms import Rooms
from deployments.game.web.sockets import COOKIE
from deployments.web.denied import RequestDeniedError
from deployments.web.limits import Buckets, address
from deployments.web.refusals import PROBLEMS, problem
from respect_core.log.pseudonyms import network

_YEAR = 365 * 24 * 3600
router = APIRouter(prefix="/api", responses=PROBLEMS)


def rooms_of(request: Request) -> Rooms:
    rooms: Rooms = request.app.state.rooms
    return rooms


def player_of(request: Request, respect_player: Annotated[str | None, Cookie(max_length=200)] = None) -> Player:
    """Return the player whose cookie it is. Raises RequestDeniedError."""
    player = rooms_of(request).players.of(respect_player)
    if player is None:
        raise RequestDeniedError(401, "", "arrive first")
    player.address_prefix = network(address(request))
    return player


def admission_of(request: Request) -> Admission:
    admission: Admission = request.app.state.admission
    return admission


ThePlayer = Annotated[Player, Depends(player_of)]
TheRooms = Annotated[Rooms, Depends(rooms_of)]
TheAdmission = Annotated[Admission, Depends(admission_of)]


@router.post("/arrive")
async def arrive(
    request: Request, response: Response, rooms: TheRooms, admission: TheAdmission, arrival: Arrive
) -> Arrived:
    """Admit a player who comes, or comes back."""
    arrivals: Buckets = request.app.state.arrivals
    cookie = request.cookies.get(COOKIE)
    returning = rooms.players.returning(cookie, arrival.participant, arrival.study)
    if returning is None and not arrivals.take(address(request)):
        raise RequestDeniedError(429, "", "too many people arrive from your address; try again in a moment")
    player, new_cookie = admission.arrive(cookie, arrival)
    if new_cookie is not None:
        response.set_cookie(
            COOKIE, new_cookie, max_age=_YEAR, httponly=True, samesite="strict", secure=rooms.settings.secure
        )
    return Arrived(player_state=admission.me(player))


@router.get("/me")
async def me(admission: TheAdmission, player: ThePlayer) -> Me:
    """Return how far the player is."""
    return admission.me(player)


@router.post("/consent")
async def consent(rooms: TheRooms, admission: TheAdmission, player: ThePlayer, given: Consent) -> Me:
    """Record that the player agrees to take part, and to which text."""
    if given.text != CONSENT:
        raise RequestDeniedError(409, "text", "the text has changed; load the page again and read it")
    await rooms.note(player, "consented", text=given.text)
    return admission.me(player)


@router.get("/quiz")
async def questions() -> list[QuizQuestion]:
    """Return the questions, without the answers."""
    return quiz.questions()


@router.post("/quiz")
async def answer(rooms: TheRooms, player: ThePlayer, submitted: QuizAnswers) -> QuizResult:
    """Check the player's answers: the quiz is passed if all are right."""
    wrong = quiz.wrong(submitted.answers)
    if not wrong:
        await rooms.note(player, "quiz_passed")
    return QuizResult(passed=not wrong, wrong=wrong)


@router.post("/practised")
async def practised(rooms: TheRooms, admission: TheAdmission, player: ThePlayer, _: Practised) -> Me:
    """Record that the practice round is done."""
    await rooms.note(player, "practised")
    return admission.me(player)


@router.post("/games", response_model=GameStarted | InLobby)
async def new_game(admission: TheAdmission, player: ThePlayer, game_request: NewGame) -> GameStarted | InLobby:
    """Begin a game, or the wait for one in the lobby."""
    table = await admission.enter(player, game_request)
    return InLobby() if table is None else GameStarted(game=table.id)


@router.get("/images/{name}.png", response_class=Response, responses={200: {"content": {"image/png": {}}}})
async def image(request: Request, name: str) -> Response:
    """Return a picture of a context that is or was played."""
    picture = await rooms_of(request).images.png(name)
    if picture is None:
        return problem(404, "there is no such picture")
    return Response(picture, media_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"})
