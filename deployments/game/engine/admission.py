"""Admit players to games: with a policy of their choice, with another person, or as their study assigns them."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Any

from deployments.game.domain import contexts, links
from deployments.game.domain.assignment import Slot, StudyFullError
from deployments.game.domain.lobby import LobbyEntry
from deployments.game.domain.players import Player
from deployments.game.domain.protocol import Arrive, Me, NewGame, Released, Role, StudyView
from deployments.game.domain.study import Study
from deployments.game.domain.table import Table
from deployments.game.durability.journal import NotWrittenError
from deployments.game.engine.rooms import Rooms
from deployments.serving.base import NotReadyError
from deployments.serving.rounds import Rounds
from deployments.web.denied import RequestDeniedError
from respect_core.variants import HH

RELEASED = "Nobody else came in time; the wait counts."
UNSAVED = "Nobody else came in time. Your wait cannot be saved at the moment; the server keeps trying."


class Admission:
    """The way into a game or the lobby."""

    def __init__(self, rooms: Rooms, rng: random.Random) -> None:
        self._rooms, self._rng = rooms, rng
        self._new_context = contexts.FreshContexts(rooms.workspace.open())
        self._entering: set[str] = set()
        self._unsaved_waits: deque[str] = deque()  # pseudonyms of players whose wait is not in the journal yet
        self._rounds = Rounds(rooms.workspace, rooms.settings.round)

    def arrive(self, cookie: str | None, arrival: Arrive) -> tuple[Player, str | None]:
        """Return the player who arrives, and the cookie to set if they need a new one. Raises RequestDeniedError."""
        study = self._rooms.study
        if arrival.study is not None and (study is None or study.file.name != arrival.study):
            raise RequestDeniedError(404, "study", "there is no such study here")
        if study is not None and arrival.participant is not None and not self._may_come_as(cookie, arrival, study):
            raise RequestDeniedError(
                403, "participant", "this link is not signed, or its time is over; ask for a new one"
            )
        holder = self._rooms.players.of(cookie)
        identified = arrival.participant is not None or (holder is not None and holder.study == arrival.study)
        if study is not None and arrival.study is not None and not identified and not study.file.anonymous:
            raise RequestDeniedError(403, "participant", "use the link that you were given")
        return self._rooms.players.arrive(cookie, arrival.participant, arrival.study)

    def _may_come_as(self, cookie: str | None, arrival: Arrive, study: Study) -> bool:
        """Whether somebody is the participant who they say they are, as far as the study asks."""
        key = self._rooms.settings.link_key
        if study.file.participants == "open" or (study.file.participants is None and key is None):
            return True
        if self._rooms.players.returning(cookie, arrival.participant, arrival.study) is not None:
            return True  # who came by the link before, on this device
        return key is not None and links.is_signed(
            arrival.study or "", arrival.participant or "", arrival.until, arrival.signature, key
        )

    def me(self, player: Player) -> Me:
        """Return what players may know of themselves."""
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
            games_done=player.games_done,
            games_left=None if cap is None else max(0, cap - player.games_begun),
            policies=[] if self._rooms.study else sorted(self._rooms.listener.ready()),
        )

    async def enter(self, player: Player, request: NewGame) -> Table | None:
        """Begin a game, or the wait in the lobby: None. Raises RequestDeniedError and NotWrittenError."""
        if player.key in self._entering:
            raise RequestDeniedError(409, "", "a game is being prepared")
        if (running := self._rooms.running(player)) is not None and not running.practice:
            raise RequestDeniedError(409, "", "a game is running", running.id)
        if not request.practice and not player.consented:
            raise RequestDeniedError(403, "", "agree to take part first")
        limits = self._rooms.settings.limits
        limit = limits.practices if request.practice else limits.tables
        if self._rooms.occupied(practice=request.practice) >= limit:
            raise RequestDeniedError(503, "", "all tables are taken; try again in a moment")
        self._entering.add(player.key)
        try:
            if request.practice:
                table: Table | None = await self._practice(player)
            elif request.mode == "study" or self._rooms.study is not None:
                table = await self._study(player, request)
            else:
                people = request.mode == "people"
                table = await (self._people(player) if people else self._policy(player, request.variant))
            if table is not None:
                self._leave_lobby(player.key)
            return table
        finally:
            self._entering.discard(player.key)

    async def _practice(self, player: Player) -> Table:
        return await self._rooms.begin({"speaker": player}, "practice", await self._draw_context(), 0, practice=True)

    async def _policy(self, player: Player, variant: str | None) -> Table:
        ready = sorted(self._rooms.listener.ready())
        if not ready:
            raise RequestDeniedError(503, "variant", "the policy is being prepared; try again in a moment")
        if variant is not None and variant not in ready:
            raise RequestDeniedError(422, "variant", "there is no such policy here")
        chosen = variant or self._rng.choice(ready)
        return await self._rooms.begin(
            {"speaker": player}, chosen, await self._draw_context(), await self._round_of(chosen)
        )

    async def _people(self, player: Player) -> Table | None:
        if player.key in self._rooms.lobby:
            return None
        # Before anybody's wait ends: store or registry may be unreachable.
        context, round = await self._draw_context(), await self._round_of(HH)
        waiting = self._rooms.lobby.partner(self._is_present)
        if waiting is None:
            self._rooms.lobby.join(player.key, None, self._rooms.clock())
            self._tell(player.key)
            return None
        return await self._pair(waiting, player, context, round)

    async def _study(self, player: Player, request: NewGame) -> Table | None:
        study = self._rooms.study
        if study is None or player.study != study.file.name or request.mode != "study":
            raise RequestDeniedError(403, "mode", "only the games of the study are played here, and practice")
        if not player.quiz_passed:
            raise RequestDeniedError(403, "", "pass the quiz first")
        if not study.open:
            raise RequestDeniedError(403, "study", "the study is not open at the moment")
        if study.file.games_per_player is not None and player.games_begun >= study.file.games_per_player:
            raise RequestDeniedError(403, "", "you have played all of your games; thank you")
        if player.key in self._rooms.lobby:
            return None
        waiting = self._rooms.lobby.partner(lambda other: self._fits(other, player))
        if waiting is not None and waiting.slot is not None:
            context = study.contexts[waiting.slot.context]
            return await self._pair(waiting, player, context, study.file.round)
        return await self._draw(study, player)

    def _has_place(self, study: Study, player: Player) -> bool:
        """Return whether the player can get a game, which they are told before they go through consent and quiz."""
        waits = any(self._fits(other, player) for other in self._rooms.lobby)
        return waits or not study.assignment.full(player.seen_contexts)

    async def _draw(self, study: Study, player: Player) -> Table | None:
        unavailable = set(study.file.policies) - set(self._rooms.listener.ready()) - {HH}
        waits = study.released[player.user] + self._unsaved_waits.count(player.user)
        may_not_wait = study.file.waits_per_player is not None and waits >= study.file.waits_per_player
        try:
            slot = study.assignment.draw(player.seen_contexts, unavailable | {HH} if may_not_wait else unavailable)
        except StudyFullError:
            if unavailable:
                raise RequestDeniedError(503, "", "the policy is being prepared; try again in a moment") from None
            if may_not_wait and HH in study.file.policies:
                raise RequestDeniedError(
                    403, "", "nobody came, and you have no waits left; thank you for your time"
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

    async def _pair(self, waiting: LobbyEntry, player: Player, context: Any, round: int) -> Table:
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

    def _fits(self, other: LobbyEntry, player: Player) -> bool:
        slot = other.slot
        return slot is not None and slot.context not in player.seen_contexts and self._is_present(other)

    def _is_present(self, waiting: LobbyEntry) -> bool:
        """Return whether somebody has a socket, or had one a moment ago, and is not about to enter another game."""
        if waiting.player in self._entering:
            return False
        return waiting.player in self._rooms.connections or self._rooms.clock() - waiting.last_seen < 5.0

    def _leave_lobby(self, player: str) -> None:
        """Take a player who gets another game out of the lobby."""
        if (waiting := self._rooms.lobby.leave(player)) is not None:
            self._give_back(waiting.slot)

    def _give_back(self, slot: Slot | None) -> None:
        if slot is not None and self._rooms.study is not None:
            self._rooms.study.assignment.release(slot)

    async def _round_of(self, policy: str) -> int:
        try:
            return await self._rounds.next(policy)
        except NotReadyError as error:
            raise RequestDeniedError(503, "", str(error)) from None

    async def _draw_context(self) -> Any:
        name = f"{self._rng.getrandbits(64):016x}"
        return await asyncio.to_thread(self._new_context, name)

    # --- the lobby's time ------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Prepare what the first game would wait for otherwise. A study has its contexts already."""
        if self._rooms.study is None:
            await asyncio.to_thread(self._new_context.prepare)

    async def watch(self) -> None:
        """Tell players in the lobby how long they wait, and release them in time."""
        told_at = 0.0
        try:
            while True:
                await asyncio.sleep(self._rooms.settings.tick)
                now = self._rooms.clock()
                # Take all out before one is told, as others come and go meanwhile.
                for waiting, stayed in list(self._rooms.lobby.expire(self._rooms.connections.__contains__, now)):
                    self._give_back(waiting.slot)
                    if stayed:
                        await self._release(waiting)
                if now - told_at >= 1.0:
                    told_at = now
                    await self._save_waits()
                    for key in list(self._rooms.connections):
                        self._tell(key)
        finally:
            await self._save_waits()

    async def _release(self, waiting: LobbyEntry) -> None:
        player = self._rooms.players.by_key(waiting.player)
        if player is not None and self._rooms.study is not None and waiting.slot is not None:
            self._unsaved_waits.append(player.user)
            await self._save_waits()
        if (connection := self._rooms.connections.get(waiting.player)) is not None:
            connection.send(Released(reason=UNSAVED if self._unsaved_waits else RELEASED))

    async def _save_waits(self) -> None:
        """Write unsuccessful waits to the journal; those that it cannot write stay for the next call."""
        study = self._rooms.study
        while study is not None and self._unsaved_waits:
            user = self._unsaved_waits.popleft()
            try:
                await self._rooms.journal.write({"kind": "released", "study": study.file.name, "user": user})
            except NotWrittenError:
                self._rooms.metrics.failures.labels("journal").inc()
                self._unsaved_waits.appendleft(user)
                return
            study.released[user] += 1

    def _tell(self, player: str) -> None:
        message = self._rooms.lobby.message(player, self._rooms.clock())
        if message is not None and (connection := self._rooms.connections.get(player)) is not None:
            connection.send(message)
