"""Serve a player's socket: decide who may open it, read messages, and do what they ask."""

from __future__ import annotations

import time

from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from deployments.clients import Bucket
from deployments.game.domain import protocol
from deployments.game.domain.players import Player
from deployments.game.domain.protocol import FROM_CLIENT, LARGEST_MESSAGE, Refused
from deployments.game.domain.table import MoveRefusedError
from deployments.game.durability.journal import NotWrittenError
from deployments.game.engine.connections import POLICY, TOO_LARGE, Connection
from deployments.game.engine.rooms import Rooms
from deployments.web.denied import complaint
from deployments.web.limits import own_origin

COOKIE = "respect_player"
NOT_SAVED = "this cannot be saved at the moment; send it again"


async def serve(socket: WebSocket, rooms: Rooms, *, admitted: bool) -> None:
    """Serve a socket until it closes. It is refused without a known cookie, from another page, or if not `admitted`."""
    player = rooms.players.of(socket.cookies.get(COOKIE))
    if player is None or not admitted or not own_origin(socket, rooms.settings.origins, required=True):
        await socket.close(POLICY)
        return
    await socket.accept()
    connection = Connection(socket)
    rooms.connect(player, connection)
    try:
        await _read(socket, rooms, player, connection)
    except (WebSocketDisconnect, RuntimeError):  # starlette's for a socket that was closed here
        pass
    finally:
        rooms.disconnect(player, connection)
        await connection.cancel()


async def _read(socket: WebSocket, rooms: Rooms, player: Player, connection: Connection) -> None:
    limits = rooms.settings.limits
    bucket, wrong = Bucket(*limits.messages, time.monotonic()), 0
    while not connection.closing:
        message = await socket.receive()
        if message["type"] != "websocket.receive":
            return
        if not bucket.take(time.monotonic()):
            connection.send(Refused(field="", reason="too many messages"))
            connection.close(POLICY)
            continue
        text = message.get("text")
        if text is not None and len(text.encode("utf-8", "replace")) > LARGEST_MESSAGE:
            connection.close(TOO_LARGE)
            continue
        refused = await _handle(rooms, player, connection, text)
        wrong = wrong + 1 if refused is not None else 0
        if refused is not None:
            rooms.metrics.refused.labels(refused.field).inc()
            connection.send(refused)
        if wrong >= limits.refusals:
            connection.close(POLICY)
    await connection.wait_closed()


async def _handle(rooms: Rooms, player: Player, connection: Connection, text: str | None) -> Refused | None:
    """Do what a message asks; return a refusal if it cannot be done."""
    if text is None:
        return Refused(field="", reason="send text")
    try:
        message = FROM_CLIENT.validate_json(text)
    except ValidationError as error:
        field, reason = complaint(error)
        return Refused(field=field, reason=reason)
    try:
        match message:
            case protocol.Say(game=game, turn=turn, text=utterance):
                await rooms.say(player, game, turn, utterance)
            case protocol.Act(game=game, turn=turn, select=select, deselect=deselect):
                await rooms.act(player, game, turn, select, deselect)
            case protocol.Leave(game=game):
                await rooms.leave(player, game)
            case protocol.Wait():
                await rooms.stay(player)
            case protocol.Ping(at=at):
                connection.send(protocol.Pong(at=at))
    except MoveRefusedError as refusal:
        return Refused(field=refusal.field, reason=refusal.reason)
    except NotWrittenError:
        rooms.metrics.failures.labels("journal").inc()
        return Refused(field="", reason=NOT_SAVED)
    return None
