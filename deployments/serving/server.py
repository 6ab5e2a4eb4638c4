"""Serve policies in this process: what the HTTP interface calls, without HTTP."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from deployments.serving.base import NotReadyError, Settings, UnknownVariantError, VersionServer
from deployments.serving.schema import ActReply, ActRequest, Fits
from deployments.serving.versions import LoadedVersion, PolicyLoader
from respect_core.acting.batcher import Batcher
from respect_core.acting.listener import Act
from respect_core.acting.roster import seeded
from respect_core.acting.served_turns import SERVED, ServedTurn
from respect_core.errors import ExpectedError
from respect_core.interaction import Interaction
from tasks.support.workspace import Workspace

log = logging.getLogger(__name__)


class TooLongError(ExpectedError, ValueError):
    """Something has more tokens than the policies take; `field` names it, and its text is not repeated."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


class PolicyServer(VersionServer[LoadedVersion]):
    """The policies of a game, one pass for all turns that wait.

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
        self._loader = PolicyLoader(
            workspace, temperature=settings.temperature, cache_bytes=settings.cache_bytes, most=settings.most
        )
        super().__init__(workspace, settings, SERVED, self._loader)
        self.began_with = began_with
        self._batcher: Batcher[tuple[LoadedVersion, Interaction], Act] = Batcher(
            _act, most=settings.most, wait=settings.wait, queue=settings.queue, observe=self.metrics.passes.observe
        )

    def close(self) -> None:
        """Answer pending requests, bring the log into the store, and end."""
        self._batcher.close()
        super().close()

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
        submitted = self._batcher.submit((served, interaction))
        try:
            act = await asyncio.wrap_future(submitted)
        except Exception as error:
            await asyncio.to_thread(self.follower.failed, request.variant, served, type(error).__name__)
            raise
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
        self._log(
            ServedTurn(
                time=datetime.now(UTC).isoformat(),
                game=request.game,
                temperature=self.settings.temperature,
                **reply.model_dump(),
            )
        )
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

    async def _version(self, variant: str, game: str) -> LoadedVersion:
        """Return the version that acts in the game."""
        try:
            if self.began_with is None or self.roster.runs(variant, game):
                return self.roster.version(variant, game)
            new = self.roster.offers()[variant].version(game)
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

    def prometheus(self) -> bytes:
        """Return the metrics as text."""
        return self.metrics.text(self.roster, self.follower, self._batcher.waiting)


def _act(requests: Sequence[tuple[LoadedVersion, Interaction]]) -> list[Act]:
    """Run one pass per version."""
    places: dict[LoadedVersion, list[int]] = {}
    for place, (served, _) in enumerate(requests):
        places.setdefault(served, []).append(place)
    acts: dict[int, Act] = {}
    for served, of_version in places.items():
        acts.update(zip(of_version, served.policy.act([requests[place][1] for place in of_version]), strict=True))
    return [acts[place] for place in range(len(requests))]
