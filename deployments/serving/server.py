"""Serve policies in this process: what the HTTP interface calls, without HTTP."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from deployments.serving.follow import Follower
from deployments.serving.metrics import Metrics
from deployments.serving.schema import ActReply, ActRequest, Fits, Readiness, VariantState
from deployments.serving.versions import Loader, ServedVersion
from respect_core.acting.batcher import Batcher
from respect_core.acting.listener import Act
from respect_core.acting.roster import Roster, seeded
from respect_core.acting.served_turns import ServedTurn, TurnLog
from respect_core.errors import ExpectedError
from respect_core.interaction import Interaction
from respect_core.store.base import StoreError
from respect_core.variants import ACTING
from tasks.support.workspace import Workspace

log = logging.getLogger(__name__)


class UnknownVariantError(ExpectedError, ValueError):
    """The server does not serve the variant; the message lists those that it serves."""


class NotReadyError(ExpectedError):
    """Nothing is loaded for the variant yet, or nothing can be; try again later."""


class TooLongError(ExpectedError, ValueError):
    """Something has more tokens than the policies take; `field` names it, and its text is not repeated."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


class NotLoggedError(ExpectedError):
    """The turn could not be logged, so it is not answered."""


@dataclass(frozen=True)
class Settings:
    """Settings of the policy server. Times in seconds."""

    variants: tuple[str, ...] = ACTING
    seed: int = 0  # of draws, if a request gives none
    temperature: float = 1.0
    most: int = 64  # turns in one pass
    wait: float = 0.004  # for other requests, before a pass
    queue: int = 1024  # requests that may wait
    cache_bytes: int = 1 << 30  # keys and values of running games, for each version
    idle: float = 1800.0  # until a game without turns counts as over
    games: int = 100_000  # running at once
    every: float = 3.0  # between checks of what is deployed
    flush: float = 10.0  # until lines of the log are in the store


class PolicyServer:
    """Any number of variants over one base model.

    Args:
        began_with: for games that may have begun at another server: called at a game's first turn here with variant,
            game and the version that would get it; names the version that it began with. May be set before `start`.
    """

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        began_with: Callable[[str, str, str], Awaitable[str]] | None = None,
    ) -> None:
        self.settings, self.began_with = settings, began_with
        self.metrics = Metrics()
        self.roster: Roster[ServedVersion] = Roster(idle=settings.idle, most=settings.games)
        self._loader = Loader(
            workspace, temperature=settings.temperature, cache_bytes=settings.cache_bytes, most=settings.most
        )
        self.follower = Follower(workspace, settings.variants, self.roster, self._loader.load, every=settings.every)
        self._turns = TurnLog(workspace.open(), workspace.scratch / "served")
        self._batcher: Batcher[tuple[ServedVersion, Interaction], Act] = Batcher(
            _act, most=settings.most, wait=settings.wait, queue=settings.queue, observe=self.metrics.passes.observe
        )
        self._stop = threading.Event()
        self._flusher = threading.Thread(target=self._flush, name="turn log", daemon=True)

    def start(self) -> None:
        """Begin to follow what is deployed. Returns at once; `readiness` says when a version can act."""
        self.follower.start()
        self._flusher.start()

    def close(self) -> None:
        """Answer pending requests, bring the log into the store, and end."""
        self._batcher.close()
        self.follower.close()
        self._stop.set()
        self._flusher.join()

    async def act(self, request: ActRequest) -> ActReply:
        """Return the action, by the version that the game began with.

        Raises:
            UnknownVariantError, TooLongError, NotReadyError, NotLoggedError: as these say.
            MissingKeyError: an image that the store does not have.
            StoreError: the store is unreachable, and an image of the context has not been read yet.
            OverloadedError: too many requests are waiting.
        """
        began = time.perf_counter()
        if request.variant not in self.settings.variants:
            raise UnknownVariantError(
                f"{request.variant!r} is not served; there are: {', '.join(self.settings.variants)}"
            )
        self.measure(request)
        if self._loader.images.missing(request.context):
            await asyncio.to_thread(self._loader.images.require, request.context)
        served = await self._version(request.variant, request.game)
        seed = self.settings.seed if request.seed is None else request.seed
        interaction = seeded(request.game, seed, request.context, request.to_turns())
        act = await asyncio.wrap_future(self._batcher.submit((served, interaction)))
        reply = ActReply(
            action=act.action,
            legal=act.legal,
            probability=act.probability,
            variant=request.variant,
            version=served.name,
            adapter_hash=served.adapter_hash,
            turn=len(request.turns),
            seed=seed,
            latency_ms=(time.perf_counter() - began) * 1000,
        )
        self._log(request, reply)
        self.metrics.acts.labels(reply.variant, reply.version).inc()
        self.metrics.seconds.observe(reply.latency_ms / 1000)
        return reply

    async def check(self, request: ActRequest) -> Fits:
        """Check whether a policy could act: nothing is drawn or logged. Raises TooLongError."""
        self.measure(request)
        return Fits()

    def measure(self, request: ActRequest) -> None:
        """Raise TooLongError if it is too long for the policies, which is not known before one is loaded."""
        if self._loader.ruler is None:
            return
        utterances = [turn.utterance for turn in request.to_turns()]
        excess = self._loader.ruler.excess(utterances, len(request.context))
        if excess is not None:
            field = "utterance" if excess.turn == len(request.turns) else f"turns[{excess.turn}].utterance"
            raise TooLongError(field, f"{excess.reason}; shorten it")

    async def _version(self, variant: str, game: str) -> ServedVersion:
        """Return the version that acts in the game."""
        try:
            if self.began_with is None or self.roster.runs(variant, game):
                return self.roster.version(variant, game)
            new = self.roster.deployed()[variant]
        except KeyError:
            raise NotReadyError(f"{variant}: no version is loaded; GET /ready says why") from None
        try:
            name = await self.began_with(variant, game, new.name)
            served = new if name == new.name else await asyncio.to_thread(self._loader.load_named, name)
        except Exception as error:  # whatever the connection or the registry raises when unreachable
            log.error(
                "%s: the version that a game began with is unknown or does not load (%s)", variant, type(error).__name__
            )
            raise NotReadyError(
                f"{variant}: the version that this game began with is unavailable at the moment"
            ) from None
        return self.roster.begin(variant, game, served)

    def end(self, variant: str, game: str) -> None:
        """End a game; do nothing if it is not running."""
        self.roster.end(variant, game)

    def readiness(self) -> Readiness:
        """Return whether there is a version for every variant, and which versions act."""
        deployed, refused = self.roster.deployed(), dict(self.follower.refused)

        def state(variant: str) -> VariantState:
            served = deployed.get(variant)
            return VariantState(
                version=served.name if served else None,
                adapter_hash=served.adapter_hash if served else None,
                refused=refused.get(variant),
            )

        since = self.follower.seconds_since_contact
        return Readiness(
            ready=set(deployed) >= set(self.settings.variants),
            following=self.follower.following,
            seconds_since_contact=None if since is None else round(since, 1),
            variants={variant: state(variant) for variant in self.settings.variants},
            running_games={version.name: games for version, games in self.roster.running().items()},
        )

    def prometheus(self) -> bytes:
        """Return the metrics as text."""
        return self.metrics.text(self.roster, self.follower, self._batcher.waiting)

    def _log(self, request: ActRequest, reply: ActReply) -> None:
        turn = ServedTurn(
            time=datetime.now(UTC).isoformat(),
            game=request.game,
            temperature=self.settings.temperature,
            **reply.model_dump(),
        )
        try:
            self._turns.add(turn)
        except OSError as error:
            self.metrics.log_failures.inc()
            log.error("a turn is not answered, because it cannot be logged: %s", error)
            raise NotLoggedError("the server cannot write its log") from error

    def _flush(self) -> None:
        while True:
            ending = self._stop.wait(self.settings.flush)
            try:
                self._turns.flush()
            except (StoreError, OSError) as error:
                self.metrics.log_failures.inc()
                log.warning("served turns wait on this machine for the store (%s)", type(error).__name__)
            if ending:
                return


def _act(requests: Sequence[tuple[ServedVersion, Interaction]]) -> list[Act]:
    """Run one pass per version."""
    places: dict[ServedVersion, list[int]] = {}
    for place, (served, _) in enumerate(requests):
        places.setdefault(served, []).append(place)
    acts: dict[int, Act] = {}
    for served, of_version in places.items():
        acts.update(zip(of_version, served.policy.act([requests[place][1] for place in of_version]), strict=True))
    return [acts[place] for place in range(len(requests))]
