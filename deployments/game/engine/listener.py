"""Let policies answer people's utterances, in this process or on a policy server elsewhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import httpx

from deployments.game.domain.table import Table
from deployments.serving.base import NotLoggedError, NotReadyError
from deployments.serving.schema import ActReply, ActRequest, PastTurn, Readiness
from deployments.serving.server import PolicyServer, TooLongError
from respect_core.acting.batcher import OverloadedError
from respect_core.errors import ExpectedError
from respect_core.scenarios.multiref import actions
from respect_core.scenarios.multiref.actions import Action
from respect_core.store.base import StoreError

log = logging.getLogger(__name__)


class UnavailableError(ExpectedError):
    """The policy does not answer, but may do so soon."""


@dataclass(frozen=True)
class Reply:
    """A policy's action, and the version that acted."""

    action: str
    probability: float
    version: str  # 'respect.b-fft/3'
    adapter_hash: str


class Listener(Protocol):
    """Acts in games. A game keeps the version that it began with until `end`."""

    def start(self) -> None: ...
    async def close(self) -> None: ...
    def ready(self) -> Mapping[str, str]:
        """Return the versions that get new games, by variant; a variant that cannot act is absent."""
        ...

    async def act(self, table: Table) -> Reply:
        """Return the policy's action. Raises UnavailableError."""
        ...

    async def fits(self, table: Table, utterance: str) -> bool:
        """Return whether an utterance is short enough for the policy; true if none can be asked."""
        ...

    async def end(self, table: Table) -> None: ...
    def prometheus(self) -> bytes: ...


def request(table: Table, utterance: str | None = None) -> ActRequest:
    """Return all that the policy may see of a table, or would see if `utterance` came next."""
    before, last = table.game.turns, utterance
    if last is None:
        *before, turn = before
        last = turn.utterance
    return ActRequest(
        variant=table.policy,
        game=table.id,
        context=list(table.context.images),
        turns=[PastTurn(utterance=turn.utterance, action=turn.action or "") for turn in before],
        utterance=last,
    )


def _reply(reply: ActReply) -> Reply:
    return Reply(reply.action, reply.probability, reply.version, reply.adapter_hash)


class InProcess:
    """Policies in this process, by `deployments.serving`."""

    def __init__(self, server: PolicyServer) -> None:
        self.server = server
        server.began_with = self._began_with
        self._tables: dict[str, Table] = {}

    def start(self) -> None:
        self.server.start()

    async def close(self) -> None:
        await asyncio.to_thread(self.server.close)

    def ready(self) -> Mapping[str, str]:
        return {variant: served.name for variant, served in self.server.roster.deployed().items()}

    async def act(self, table: Table) -> Reply:
        self._tables[table.id] = table
        try:
            return _reply(await self.server.act(request(table)))
        except (NotReadyError, NotLoggedError, OverloadedError, StoreError) as error:
            raise UnavailableError(str(error)) from error

    async def fits(self, table: Table, utterance: str) -> bool:
        try:
            self.server.measure(request(table, utterance))
        except TooLongError:
            return False
        return True

    async def end(self, table: Table) -> None:
        self.server.end(table.policy, table.id)
        self._tables.pop(table.id, None)

    async def _began_with(self, _variant: str, game: str, version: str) -> str:
        """Return the version of a game; after a restart of this process, the journal names it."""
        acted_by = self._tables[game].acted_by
        return acted_by[0][0] if acted_by else version

    def prometheus(self) -> bytes:
        return self.server.prometheus()


class Remote:
    """Policies on a policy server at a URL (docs/serving.md).

    Args:
        required: policies of a study; a warning names those that are not served there.
        every: seconds between two checks of what is ready.
    """

    def __init__(self, url: str, *, required: Collection[str] = (), every: float = 3.0) -> None:
        limits = httpx.Limits(max_connections=256, max_keepalive_connections=64)
        self._client = httpx.AsyncClient(base_url=url, timeout=30.0, limits=limits)
        self._required, self._every = required, every
        self._ready: dict[str, str] = {}
        self._last_warning = ""
        self._poller: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._poller = asyncio.get_running_loop().create_task(self._poll())

    async def close(self) -> None:
        if self._poller is not None:
            self._poller.cancel()
        await self._client.aclose()

    def ready(self) -> Mapping[str, str]:
        return self._ready

    async def act(self, table: Table) -> Reply:
        try:
            answer = await self._client.post("/act", json=request(table).model_dump())
        except httpx.HTTPError as error:
            raise UnavailableError(f"the policy server does not answer ({type(error).__name__})") from error
        if answer.status_code != 200:
            raise UnavailableError(f"the policy server answers {answer.status_code}")
        return _reply(ActReply.model_validate_json(answer.content))

    async def fits(self, table: Table, utterance: str) -> bool:
        try:
            answer = await self._client.post("/check", json=request(table, utterance).model_dump())
        except httpx.HTTPError:
            return True
        return answer.status_code != 422

    async def end(self, table: Table) -> None:
        try:
            await self._client.delete(f"/games/{table.policy}/{table.id}")
        except httpx.HTTPError:
            return  # it forgets idle games by itself

    def prometheus(self) -> bytes:
        return b""

    async def _poll(self) -> None:
        while True:
            try:
                readiness = Readiness.model_validate_json((await self._client.get("/ready")).content)
                self._ready = {name: state.version for name, state in readiness.variants.items() if state.version}
                self._warn_of_missing(readiness.variants)
            except (httpx.HTTPError, ValueError):
                self._ready = {}
                self._warn_once("the policy server does not answer: until it does, nobody gets a game with a policy")
            await asyncio.sleep(self._every)

    def _warn_of_missing(self, served: Collection[str]) -> None:
        missing = ", ".join(name for name in self._required if name not in served)
        remedy = "nobody gets a game with it; name it in `respect serve --variants`"
        self._warn_once(
            f"the study needs policies that the policy server does not serve, {missing}: {remedy}" if missing else ""
        )

    def _warn_once(self, warning: str) -> None:
        """Log a warning once, not at every check."""
        if warning and warning != self._last_warning:
            log.warning(warning)
        self._last_warning = warning


class PerfectListener:
    """The practice round's listener: reads nothing, but knows the targets, and selects one per turn. Never logged."""

    def act(self, table: Table) -> Reply:
        missing = [letter for letter in table.context.target_letters if letter not in table.game.state]
        action = Action(select=missing[0]) if missing else actions.parse(actions.NOTHING)
        return Reply(str(action), 1.0, "practice", "")
