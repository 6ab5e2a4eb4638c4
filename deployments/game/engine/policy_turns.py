"""Play a policy's turn in a game: ask it until it answers, or until patience ends."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from deployments.failures import place_of
from deployments.game.domain.table import Table
from deployments.game.durability.journal import NotWrittenError
from deployments.game.engine.listener import PerfectListener, Reply, UnavailableError

if TYPE_CHECKING:
    from deployments.game.engine.rooms import Rooms

log = logging.getLogger(__name__)


async def answer(rooms: Rooms, table: Table) -> None:
    """Ask until the policy has acted, or the game is over. Without a possible answer, the game is stopped."""
    try:
        await _answer(rooms, table)
    except Exception as error:
        log.error("game %s, in a policy's turn: %s", table.id, place_of(error))
        await rooms.end(table, lambda: table.end("stopped"))


async def _answer(rooms: Rooms, table: Table) -> None:
    reply = await _reply(rooms, table)
    if reply is not None and table.acted_by and table.acted_by[0][1] != reply.adapter_hash:
        # One game is one policy's in the log. The one that began it is gone, e.g. with a restart.
        log.warning("game %s is stopped: %s would continue for another version", table.id, reply.version)
        reply = None
    if reply is None:
        await rooms.end(table, lambda: table.end("stopped"))
        return
    began = time.perf_counter()
    while not await _record(rooms, table, reply):
        rooms.metrics.failures.labels("journal").inc()
        await asyncio.sleep(1.0)
    if table.ending is not None:  # the speaker left meanwhile
        return
    await rooms.advance(table)
    rooms.metrics.seconds.labels("policy").observe(time.perf_counter() - began)


async def _reply(rooms: Rooms, table: Table) -> Reply | None:
    """Return the policy's action; None if there is none in time."""
    if table.practice:
        return PerfectListener().act(table)
    deadline = rooms.clock() + rooms.settings.patience
    while table.awaited == "listener" and (seconds_left := deadline - rooms.clock()) > 0:
        try:
            async with asyncio.timeout(seconds_left):
                return await rooms.listener.act(table)
        except (UnavailableError, TimeoutError):
            rooms.metrics.failures.labels("policy").inc()
            await asyncio.sleep(min(1.0, rooms.settings.patience / 20))
        except Exception as error:
            log.error("game %s, in a policy's turn: %s", table.id, place_of(error))
            return None
    return None


async def _record(rooms: Rooms, table: Table, reply: Reply) -> bool:
    """Return whether the action is recorded, or no longer needed; False if the journal could not write it."""
    async with rooms.lock(table):
        if table.awaited == "listener":
            try:
                await rooms.record(table, table.policy_action(reply, rooms.clock()))
            except NotWrittenError:
                return False
    return True
