"""Share what servers of policies have in common: the versions that are deployed, and a log of what was served."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from pydantic import BaseModel

from deployments.serving.follow import Follower
from deployments.serving.metrics import Metrics
from deployments.serving.schema import Readiness, VariantState
from deployments.serving.versions import Loader, Version
from respect_core.acting.roster import Roster
from respect_core.errors import ExpectedError
from respect_core.store.base import StoreError
from respect_core.store.line_log import LineLog
from respect_core.variants import ACTING
from tasks.support.workspace import Workspace

log = logging.getLogger(__name__)


class UnknownVariantError(ExpectedError, ValueError):
    """The server does not serve the variant; the message lists those that it serves."""


class NotReadyError(ExpectedError):
    """Nothing is loaded for the variant yet, or nothing can be; try again later."""


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


class VersionServer(Generic[Version]):
    """Any number of variants over one base model.

    Args:
        prefix: of the log in the store, and its folder on this machine.
        loader: makes versions ready to act.
        kept: see `LineLog`.
    """

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        prefix: str,
        loader: Loader[Version],
        kept: Callable[[bytes], bytes] = lambda lines: lines,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.roster: Roster[Version] = Roster(idle=settings.idle, most=settings.games)
        self.follower = Follower(workspace, settings.variants, self.roster, loader.load, every=settings.every)
        self._lines = LineLog(workspace.open(), workspace.scratch / prefix, prefix, kept)
        self._stop = threading.Event()
        self._flusher = threading.Thread(target=self._flush, name="log of what is served", daemon=True)

    def start(self) -> None:
        """Begin to follow what is deployed. Returns at once; `readiness` says when a version can act."""
        self.follower.start()
        self._flusher.start()

    def close(self) -> None:
        """Bring the log into the store, and end."""
        self.follower.close()
        self._stop.set()
        self._flusher.join()

    def readiness(self) -> Readiness:
        """Return whether there is a version for every variant, and which versions act."""
        offers, refused = self.roster.offers(), dict(self.follower.refused)

        def state(variant: str) -> VariantState:
            offer = offers.get(variant)
            return VariantState(
                version=offer.deployed.name if offer else None,
                adapter_hash=offer.deployed.adapter_hash if offer else None,
                refused=refused.get(variant),
                canary=offer.candidate.name if offer and offer.candidate else None,
            )

        since = self.follower.seconds_since_contact
        return Readiness(
            ready=set(offers) >= set(self.settings.variants),
            following=self.follower.following,
            seconds_since_contact=None if since is None else round(since, 1),
            variants={variant: state(variant) for variant in self.settings.variants},
            running_games={version.name: games for version, games in self.roster.running().items()},
        )

    def _log(self, record: BaseModel) -> None:
        """Log a turn before it is answered. Raises NotLoggedError."""
        try:
            self._lines.add(record)
        except OSError as error:
            self.metrics.log_failures.inc()
            log.error("a turn is not answered, because it cannot be logged: %s", error)
            raise NotLoggedError("the server cannot write its log") from error

    def _flush(self) -> None:
        while True:
            ending = self._stop.wait(self.settings.flush)
            try:
                self._lines.flush()
            except (StoreError, OSError) as error:
                self.metrics.log_failures.inc()
                log.warning("served turns wait on this machine for the store (%s)", type(error).__name__)
            if ending:
                return
