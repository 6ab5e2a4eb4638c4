"""Who may begin which game: with a policy of their choice, with another person, or as their study has it."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Any

from deployments.game.domain import contexts
from deployments.game.domain.assignment import Slot, StudyFullError
from deployments.game.domain.denied import RequestDeniedError
from deployments.game.domain.lobby import Waiting
from deployments.game.domain.players import Player
from deployments.game.domain.protocol import Arrive, Me, NewGame, Released, Role, StudyView
from deployments.game.domain.study import Study
from deployments.game.domain.table import Table
from deployments.game.durability.journal import NotWrittenError
from deployments.game.engine.rooms import Rooms
from deployments.game.engine.rounds import Rounds
from respect_core.variants import HH

RELEASED = "nobody else came in time; thank you for waiting, the wait counts"
UNSAVED = "nobody else came in time; thank you for waiting. This cannot be saved at the moment, and is tried again"


class Door:
    """Lets people in, and into the lobby."""

    def __init__(self, rooms: Rooms, rng: random.Random) -> None:
        self._rooms, self._rng = rooms, rng
        self._new_context = contexts.Fresh(rooms.workspace.open())
        self._entering: set[str] = set()
        self._owed: deque[str] = deque()  # pseudonyms of who waited in vain, which the journal did not take yet
        self._rounds = Rounds(rooms.workspace, rooms.settings.round)

    def arrive(self, cookie: str | None, arrival: Arrive) -> tuple[Player, str | None]:
        """The player, and the cookie to set where there is a new one. Raises RequestDeniedError."""
        study = self._rooms.study
        if arrival.study is not None and (study is None or study.file.name != arrival.study):
            raise RequestDeniedError(404, "study", "there is no such study here")
        known = self._rooms.players.of(cookie)
        named = arrival.participant is not None or (known is not None and known.study == arrival.study)
        if study is not None and arrival.study is not None and not named and not study.file.anonymous:
            raise RequestDeniedError(403, "participant", "come by the link that you were given")
        return self._rooms.players.arrive(cookie, arrival.participant, arrival.study)

    def me(self, player: Player) -> Me:
        """What the player may know of themselves."""
        running, study = self._rooms.running(player), self._rooms.study if player.study else None
        cap = study.file.games_per_player if study else None
        view = None
        if study:
            full = running is None and player.key not in self._rooms.lobby and not self._has_place(study, player)
            view = StudyView(name=study.file.name, open=study.open, full=full, lobby_seconds=study.file.lobby_seconds)
        return Me(
            consented=player.consented,
            quiz_passed=player.quiz_passed,
            practised=player.practised,
            study=view,
            game=running.id if running else None,
            in_lobby=player.key in self._rooms.lobby,
            games_done=player.done,
            games_left=None if cap is None else max(0, cap - player.begun),
            policies=[] if self._rooms.study else sorted(self._rooms.listener.ready()),
        )

    async def enter(self, player: Player, wish: NewGame) -> Table | None:
        """The game; None for the lobby. Raises RequestDeniedError and NotWrittenError."""
        if player.key in self._entering:
            raise RequestDeniedError(409, "", "a game is being prepared")
        if (running := self._rooms.running(player)) is not None and not running.practice:
            raise RequestDeniedError(409, "", "a game is running", running.id)
        limits = self._rooms.settings.limits
        most = limits.practices if wish.practice else limits.tables
        if self._rooms.occupied(practice=wish.practice) >= most:
            raise RequestDeniedError(503, "", "every table is taken; try again in a moment")
        self._entering.add(player.key)
        try:
            if wish.practice:
                table: Table | None = await self._practice(player)
            elif wish.mode == "study" or self._rooms.study is not None:
                table = await self._study(player, wish)
            else:
                table = await (self._people(player) if wish.mode == "people" else self._policy(player, wish.variant))
            if table is not None:
                self._out(player.key)
            return table
        finally:
            self._entering.discard(player.key)

    async def _practice(self, player: Player) -> Table:
        return await self._rooms.begin({"speaker": player}, "practice", await self._fresh(), 0, practice=True)

    async def _policy(self, player: Player, variant: str | None) -> Table:
        ready = sorted(self._rooms.listener.ready())
        if not ready:
            raise RequestDeniedError(503, "variant", "the policy is being prepared; try again in a moment")
        if variant is not None and variant not in ready:
            raise RequestDeniedError(422, "variant", "there is no such policy here")
        chosen = variant or self._rng.choice(ready)
        return await self._rooms.begin(
            {"speaker": player}, chosen, await self._fresh(), await self._rounds.next(chosen)
        )

    async def _people(self, player: Player) -> Table | None:
        if player.key in self._rooms.lobby:
            return None
        # Before anybody's wait ends: store or registry may be away.
        context, round = await self._fresh(), await self._rounds.next(HH)
        waiting = self._rooms.lobby.partner(self._here)
        if waiting is None:
            self._rooms.lobby.join(player.key, None, self._rooms.clock())
            self._tell(player.key)
            return None
        return await self._pair(waiting, player, context, round)

    async def _study(self, player: Player, wish: NewGame) -> Table | None:
        study = self._rooms.study
        if study is None or player.study != study.file.name or wish.mode != "study":
            raise RequestDeniedError(403, "mode", "only the games of the study are played here, and practice")
        if not player.consented or not player.quiz_passed:
            raise RequestDeniedError(403, "", "first the consent and the quiz")
        if not study.open:
            raise RequestDeniedError(403, "study", "the study is not open at the moment")
        if study.file.games_per_player is not None and player.begun >= study.file.games_per_player:
            raise RequestDeniedError(403, "", "you have played all of your games; thank you")
        if player.key in self._rooms.lobby:
            return None
        waiting = self._rooms.lobby.partner(lambda other: self._fits(other, player))
        if waiting is not None and waiting.slot is not None:
            context = study.contexts[waiting.slot.context]
            return await self._pair(waiting, player, context, study.file.round)
        return await self._drawn(study, player)

    def _has_place(self, study: Study, player: Player) -> bool:
        """Whether a game is left, or somebody waits for one: said before anybody goes through consent and quiz."""
        waits = any(self._fits(other, player) for other in self._rooms.lobby)
        return waits or not study.assignment.full(player.seen)

    async def _drawn(self, study: Study, player: Player) -> Table | None:
        away = set(study.file.policies) - set(self._rooms.listener.ready()) - {HH}
        waits = study.released[player.user] + self._owed.count(player.user)
        waited = study.file.waits_per_player is not None and waits >= study.file.waits_per_player
        try:
            slot = study.assignment.draw(player.seen, away | {HH} if waited else away)
        except StudyFullError:
            if away:
                raise RequestDeniedError(503, "", "the policy is being prepared; try again in a moment") from None
            if waited and HH in study.file.policies:
                raise RequestDeniedError(
                    403, "", "nobody came as often as you could wait; thank you for your time"
                ) from None
            raise RequestDeniedError(403, "", "every game of the study is taken; thank you") from None
        if slot.policy == HH:
            self._rooms.lobby.join(player.key, slot, self._rooms.clock())
            self._tell(player.key)
            return None
        try:
            return await self._rooms.begin(
                {"speaker": player}, slot.policy, study.contexts[slot.context], study.file.round, slot
            )
        except BaseException:
            study.assignment.release(slot)
            raise

    async def _pair(self, waiting: Waiting, player: Player, context: Any, round: int) -> Table:
        first = self._rooms.players.by_key(waiting.player)
        assert first is not None, "somebody who waits is known"
        seats: dict[Role, Player] = dict(
            zip(("speaker", "listener"), self._rng.sample([first, player], 2), strict=True)
        )
        self._entering.add(first.key)
        try:
            return await self._rooms.begin(seats, HH, context, round, waiting.slot)
        except BaseException:
            self._rooms.lobby.put_back(waiting)
            raise
        finally:
            self._entering.discard(first.key)

    def _fits(self, other: Waiting, player: Player) -> bool:
        slot = other.slot
        return slot is not None and slot.context not in player.seen and self._here(other)

    def _here(self, waiting: Waiting) -> bool:
        """Has a socket, or had one a moment ago, and is not on the way into another game."""
        if waiting.player in self._entering:
            return False
        return waiting.player in self._rooms.connections or self._rooms.clock() - waiting.seen < 5.0

    def _out(self, player: str) -> None:
        """Of the lobby, for another game."""
        if (waiting := self._rooms.lobby.leave(player)) is not None:
            self._give_back(waiting.slot)

    def _give_back(self, slot: Slot | None) -> None:
        if slot is not None and self._rooms.study is not None:
            self._rooms.study.assignment.release(slot)

    async def _fresh(self) -> Any:
        name = f"{self._rng.getrandbits(64):016x}"
        return await asyncio.to_thread(self._new_context, name)

    # --- the lobby's time ------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """What the first game would wait for otherwise. Not needed by a study, whose contexts are there."""
        if self._rooms.study is None:
            await asyncio.to_thread(self._new_context.prepare)

    async def watch(self) -> None:
        """Tell those who wait how long, and let them go in time."""
        told = 0.0
        try:
            while True:
                await asyncio.sleep(self._rooms.settings.tick)
                now = self._rooms.clock()
                # All are out before one is told: meanwhile others come and go.
                for waiting, honourably in list(self._rooms.lobby.look(self._rooms.connections.__contains__, now)):
                    self._give_back(waiting.slot)
                    if honourably:
                        await self._release(waiting)
                if now - told >= 1.0:
                    told = now
                    await self._pay()
                    for key in list(self._rooms.connections):
                        self._tell(key)
        finally:
            await self._pay()

    async def _release(self, waiting: Waiting) -> None:
        player = self._rooms.players.by_key(waiting.player)
        if player is not None and self._rooms.study is not None and waiting.slot is not None:
            self._owed.append(player.user)
            await self._pay()
        if (connection := self._rooms.connections.get(waiting.player)) is not None:
            connection.send(Released(reason=UNSAVED if self._owed else RELEASED))

    async def _pay(self) -> None:
        """Waits in vain, for the journal. What its disk does not take is owed, and tried again."""
        study = self._rooms.study
        while study is not None and self._owed:
            user = self._owed.popleft()
            try:
                await self._rooms.journal.write({"kind": "released", "study": study.file.name, "user": user})
            except NotWrittenError:
                self._rooms.metrics.failures.labels("journal").inc()
                self._owed.appendleft(user)
                return
            study.released[user] += 1

    def _tell(self, player: str) -> None:
        message = self._rooms.lobby.message(player, self._rooms.clock())
        if message is not None and (connection := self._rooms.connections.get(player)) is not None:
            connection.send(message)
