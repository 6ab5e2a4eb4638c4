"""Run games: people at their tables, policies that answer, clocks, and the way into journal and store.

A move is checked, written to the journal, applied, acknowledged and shown, in this order; a table has one at a time.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from weakref import WeakValueDictionary

from deployments.failures import place_of
from deployments.game.domain import contexts
from deployments.game.domain.assignment import Slot
from deployments.game.domain.events import Event
from deployments.game.domain.lobby import Lobby
from deployments.game.domain.players import Player, Players
from deployments.game.domain.protocol import LONGEST_UTTERANCE, Acknowledged, Role
from deployments.game.domain.study import Result, Study
from deployments.game.domain.table import OTHER, MoveRefusedError, Table, clean
from deployments.game.durability.journal import Journal, NotWrittenError
from deployments.game.engine import policy_turns
from deployments.game.engine.archive import Archiver
from deployments.game.engine.background import Background
from deployments.game.engine.connections import Connection
from deployments.game.engine.images import Images
from deployments.game.engine.listener import Listener
from deployments.game.engine.metrics import Metrics
from deployments.game.engine.settings import Settings
from respect_core.scenarios.multiref.contexts import GameContext
from respect_core.variants import HH
from tasks.support.workspace import Workspace

log = logging.getLogger(__name__)


class Rooms:
    """The games and players of this server.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        listener: Listener,
        study: Study | None,
        journal: Journal,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.workspace, self.settings, self.listener, self.study = workspace, settings, listener, study
        self.journal, self.clock, self.metrics = journal, clock, Metrics()
        self.players = Players(settings.limits.newcomers, self._is_here)
        self.lobby = Lobby(study.file.lobby_seconds if study else settings.lobby)
        self.tables: dict[str, Table] = {}
        self.connections: dict[str, Connection] = {}  # by player
        self.images = Images(workspace.open())
        for context in study.contexts.values() if study else ():
            self.images.show(context.images)
        self.archiver = Archiver(workspace.open(), journal, lambda: self.metrics.failures.labels("store").inc())
        self.damaged: set[str] = set()  # games that the journal lacks a line of
        self._stuck: set[str] = set()  # games whose clocks fail
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by game, while somebody holds one
        self.background = Background(lambda name: self.metrics.failures.labels(name).inc())

    # --- start and end ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Resume the games that the journal says were running, and start the clocks."""
        self.listener.start()
        for table in list(self.tables.values()):
            table.since = self.clock()  # nobody's clock runs while the server is down
            if table.id in self.damaged:
                await self.end(table, lambda table=table: table.end("stopped"))  # type: ignore[misc]  # a default binds it
            elif table.ending is None:
                await self.advance(table)
        self.background.keep("clocks", self._look_at_clocks)
        self.background.keep("archiver", self.archiver.run)

    async def close(self) -> None:
        """Store what is over, if the store answers; running games resume at the next start."""
        await self.background.close()
        await self.archiver.close()
        await self.listener.close()
        await asyncio.to_thread(self.journal.close)
        self.images.close()

    # --- who is here -----------------------------------------------------------------------------------------------

    def connect(self, player: Player, connection: Connection) -> None:
        """Make this a player's socket in place of an older one, and send where they are."""
        previous = self.connections.get(player.key)
        self.connections[player.key] = connection
        if previous is not None:
            previous.hand_over()
        if (table := self.tables.get(player.table or "")) is not None:
            self._show(table)
        elif (message := self.lobby.message(player.key, self.clock())) is not None:
            connection.send(message)

    def disconnect(self, player: Player, connection: Connection) -> None:
        """Note that a player is gone. The game continues, and so does its clock."""
        if self.connections.get(player.key) is connection:
            del self.connections[player.key]
            if (table := self.tables.get(player.table or "")) is not None:
                self._show(table)

    def running(self, player: Player) -> Table | None:
        """Return the game that the player is in; None if none is running."""
        table = self.tables.get(player.table or "")
        return table if table is not None and table.ending is None else None

    def _is_here(self, player: Player) -> bool:
        return player.key in self.connections or player.key in self.lobby or self.running(player) is not None

    def missing_policies(self) -> list[str]:
        """Return the policies that should act and cannot yet: those of the study, or 'any'."""
        acting = set(self.listener.ready())
        if self.study is None:
            return [] if acting else ["any"]
        return sorted(set(self.study.file.policies) - {HH} - acting)

    def occupied(self, *, practice: bool) -> int:
        """Return the number of tables with a running game."""
        return sum(table.ending is None and table.practice == practice for table in self.tables.values())

    async def note(self, player: Player, kind: str, **fields: str) -> None:
        """Record that a player has 'consented' (to `text`), 'quiz_passed' or 'practised'. Raises NotWrittenError."""
        await self._record_identity(player)
        await self.journal.write(event := {"kind": kind, "player": player.key} | fields)
        self.players.apply(event)

    async def _record_identity(self, player: Player) -> None:
        for event in self.players.events(player):
            await self.journal.write(event)
            self.players.apply(event)

    # --- games begin -----------------------------------------------------------------------------------------------

    async def begin(
        self,
        seats: dict[Role, Player],
        policy: str,
        context: GameContext,
        round: int,
        slot: Slot | None = None,
        practice: bool = False,
    ) -> Table:
        """Begin a game. Raises NotWrittenError."""
        event: Event = {
            "kind": "began",
            "game": secrets.token_hex(12),
            "policy": policy,
            "round": round,
            "seats": {role: player.key for role, player in seats.items()},
            "context": contexts.to_json(context),
            "study": self.study.file.name if slot and self.study else None,
            "draws": self.study.assignment.draws if slot and self.study else 0,
            "started_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "consent": seats["speaker"].consent,
            "address_prefix": seats["speaker"].address_prefix,
            "signed_in": seats["speaker"].signed_in,
        }
        if not practice:
            for player in seats.values():
                await self._record_identity(player)
            await self.journal.write(event)
        table = self.seat(event, practice)
        if slot and self.study:
            self.study.note_start(table.id, slot)
        self._show(table)
        return table

    def seat(self, event: Event, practice: bool = False) -> Table:
        """Make the table of a game that began, in the journal or just now."""
        table = Table(
            id=event["game"],
            context=contexts.from_json(event["context"]),
            seats=event["seats"],
            policy=event["policy"],
            round=event["round"],
            started_at=event["started_at"],
            study=event["study"],
            consent=event.get("consent"),  # none in a journal of an earlier release
            address_prefix=event.get("address_prefix"),
            signed_in=event.get("signed_in"),
            practice=practice,
            clocks=self.settings.clocks,
            since=self.clock(),
        )
        self.tables[table.id] = table
        self.images.show(table.context.images)
        for key in table.seats.values():
            player = self.players.by_key(key)
            if player is None:
                continue
            self._forget(player.table)
            player.table = table.id
            if not practice:
                player.games_begun += 1
                if table.study is not None:
                    player.seen_contexts.add(table.context.id)
        return table

    # --- moves -----------------------------------------------------------------------------------------------------

    async def say(self, player: Player, game: str, turn: int, text: str) -> None:
        """Make a speaker's move. Raises MoveRefusedError and NotWrittenError."""
        table, utterance, fits = self.tables.get(game), clean(text), True
        readable = 0 < len(utterance) <= LONGEST_UTTERANCE  # else the table refuses it
        if readable and table is not None and not table.practice and table.awaited == "speaker":
            fits = await self.listener.fits(table, utterance)
        await self._move(player, game, turn, "say", lambda table: table.say(player.key, turn, text, fits=fits))

    async def act(self, player: Player, game: str, turn: int, select: str, deselect: str) -> None:
        """Make a listener's move. Raises MoveRefusedError and NotWrittenError."""
        await self._move(
            player, game, turn, "act", lambda table: table.act(player.key, turn, select, deselect, self.clock())
        )

    async def leave(self, player: Player, game: str) -> None:
        """End a game for a player. Raises MoveRefusedError and NotWrittenError."""
        await self._move(player, game, None, "leave", lambda table: table.leave(player.key))

    async def stay(self, player: Player) -> None:
        """Restart the time of a player's wait in the lobby. Raises MoveRefusedError."""
        if not self.lobby.stay(player.key, self.clock()):
            raise MoveRefusedError("type", "you are not in the lobby")
        self.connections[player.key].send(self.lobby.message(player.key, self.clock()))  # type: ignore[arg-type]  # there

    async def _move(
        self, player: Player, game: str, turn: int | None, name: str, move: Callable[[Table], Event | None]
    ) -> None:
        began = time.perf_counter()
        table = self.tables.get(game)
        if table is None or player.key not in table.seats.values():
            raise MoveRefusedError("game", "you do not play in this game")
        async with self.lock(table):
            event = move(table)
            if event is not None:
                try:
                    await self.record(table, event)
                except NotWrittenError:
                    table.since = self.clock()  # the player is not to blame
                    raise
        if turn is not None and (connection := self.connections.get(player.key)) is not None:
            connection.send(Acknowledged(game=game, turn=turn))
        if event is not None:
            await self.advance(table)
        self.metrics.seconds.labels(name).observe(time.perf_counter() - began)

    async def record(self, table: Table, event: Event) -> None:
        """Write an event to the journal, then apply it. The caller holds the table's lock. Raises NotWrittenError."""
        if not table.practice:
            await self.journal.write(event)
        table.apply(event, self.clock())

    async def advance(self, table: Table) -> None:
        """Act on a change: end the game if the rules say so, ask the policy if it is its turn, and show everybody."""
        if table.rule_ending() is not None:
            await self.end(table, table.rule_ending)
            return
        self._show(table)
        if table.ending is not None:
            self._over(table)
        elif table.awaited == "listener" and "listener" not in table.seats:
            self.background.once(policy_turns.answer(self, table))

    async def end(self, table: Table, event: Callable[[], Event | None]) -> None:
        """End a game. The event is asked for once the table is locked; None if the game continues after all."""
        async with self.lock(table):
            if table.ending is not None or (happened := event()) is None:
                return
            try:
                await self.record(table, happened)
            except NotWrittenError:
                self.metrics.failures.labels("journal").inc()
                return  # the next look at the clocks tries again
        self._show(table)
        self._over(table)

    # --- endings ---------------------------------------------------------------------------------------------------

    def _over(self, table: Table) -> None:
        assert table.ending is not None
        if table.practice:
            return
        self.metrics.ended.labels(table.ending.reason).inc()
        self.settle(table)
        self.archiver.put(table, self.users(table))
        if "listener" not in table.seats:
            self.background.once(self.listener.end(table))

    def settle(self, table: Table) -> None:
        """Count a game that is over, just now or in the journal."""
        assert table.ending is not None
        for key in table.seats.values():
            if (player := self.players.by_key(key)) is None:
                continue
            if table.ending.reason == "stopped":
                player.games_begun -= 1
            else:
                player.games_done += 1
        if self.study and table.study == self.study.file.name:
            ending = table.ending
            self.study.record(Result(table.id, table.policy, self.users(table), ending.reason, ending.by))

    def users(self, table: Table) -> dict[str, str]:
        """Return the players' pseudonyms by role."""
        seated = {role: self.players.by_key(key) for role, key in table.seats.items()}
        return {role: player.user for role, player in seated.items() if player is not None}

    def drop(self, game: str) -> None:
        """Remove a table that nobody can come back to."""
        table = self.tables.pop(game, None)
        for key in table.seats.values() if table is not None else ():
            if (player := self.players.by_key(key)) is not None and player.table == game:
                player.table = None

    def _forget(self, game: str | None) -> None:
        """Remove a game that is over, or a practice that its player leaves for another game."""
        table = self.tables.get(game or "")
        if table is not None and (table.practice or table.ending is not None):
            del self.tables[table.id]

    # --- inside ----------------------------------------------------------------------------------------------------

    async def _look_at_clocks(self) -> None:
        while True:
            await asyncio.sleep(self.settings.tick)
            now = self.clock()
            for table in list(self.tables.values()):
                if table.id not in self._stuck:
                    try:
                        await self._look_at(table, now)
                    except Exception as error:  # of this game alone: the others' clocks run on
                        self._stuck.add(table.id)
                        log.error("game %s, at its clock: %s", table.id, place_of(error))

    async def _look_at(self, table: Table, now: float) -> None:
        if table.late(now) is not None or (table.rule_ending() is not None and not self.lock(table).locked()):
            await self.end(table, lambda: table.rule_ending() or table.late(self.clock()))
        elif table.ending is not None and now - table.since > self.settings.linger:
            self._forget(table.id)

    def _show(self, table: Table) -> None:
        """Send its state to everybody at the table who is connected."""
        now = self.clock()
        for role, key in table.seats.items():
            connection, player = self.connections.get(key), self.players.by_key(key)
            if connection is not None and player is not None and player.table == table.id:
                other = table.seats.get(OTHER[role])
                connection.send(table.view(key, now, other is None or other in self.connections))

    def lock(self, table: Table) -> asyncio.Lock:
        return self._locks.setdefault(table.id, asyncio.Lock())
