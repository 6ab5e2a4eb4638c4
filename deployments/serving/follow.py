"""Follow what is deployed: load new versions next to the old ones, which are dropped once no game needs them.

The candidate of a canary is loaded next to the deployed version. Where it does not load or act, the store says so from
then on, and no server gives it new games.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic

from mlflow.entities.model_registry import ModelVersion

from deployments.serving.versions import EngineError, LastGood, Version, VersionRejectedError
from respect_core.acting.roster import Offer, Roster
from respect_core.release import canary_looks, ledger
from respect_core.store.base import StoreError
from respect_core.variants import SEED
from tasks.registry import deployed as deployment
from tasks.registry import registry
from tasks.support.retries import is_transient
from tasks.support.workspace import Workspace

log = logging.getLogger(__name__)
RETRY = 60.0
"""Seconds until a refused version is tried again."""


def quick_registry() -> None:
    """Notice an unreachable registry, and its return, within seconds."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


class Follower(Generic[Version]):
    """Check ledger and registry every few seconds, in a thread of its own.

    If a version is refused, or registry or store are unreachable, the present version stays; after a restart, the one
    that acted before it.

    Args:
        load: makes a version ready to act; raises VersionRejectedError.
        every: seconds between two checks.
    """

    def __init__(
        self,
        workspace: Workspace,
        variants: Sequence[str],
        roster: Roster[Version],
        load: Callable[[ModelVersion], Version],
        *,
        every: float = 3.0,
    ) -> None:
        self._workspace, self.variants, self._roster, self._load, self.every = workspace, variants, roster, load, every
        self.refused: dict[str, str] = {}  # by variant
        self.checked = threading.Event()  # at every variant, whatever the answer
        self._refused_versions: dict[tuple[str, str], tuple[float, str]] = {}
        self._refused_candidates: dict[tuple[str, int], str] = {}  # by model and entry of the ledger
        self._last_good = LastGood(workspace)
        self._entries: dict[str, int] = {}  # of the ledger, by variant
        self._canaries: dict[str, ledger.Entry] = {}  # entries of those whose candidates are on offer, by variant
        self._contact: float | None = None
        self._away: set[str] = set()  # variants whose last check got no answer
        self._loading = False  # which may take a long time
        self._in_use: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End after the work in progress, without waiting for a registry that does not answer."""
        self._stop.set()
        self._thread.join(timeout=10)

    @property
    def seconds_since_contact(self) -> float | None:
        """Seconds since registry and store last answered; None before the first time."""
        return None if self._contact is None else time.monotonic() - self._contact

    @property
    def following(self) -> bool:
        """Whether what is deployed is known: every variant's last check was answered, and not long ago."""
        since = self.seconds_since_contact
        return since is not None and not self._away and (self._loading or since < 3 * self.every + 1)

    def check(self) -> None:
        """Check every variant once."""
        for variant in self.variants:
            answered = self._follow(variant)
            self._fall_back(variant)
            if answered:
                self._contact = time.monotonic()
                self._away.discard(variant)
            else:
                self._away.add(variant)
                self._withdraw(variant)  # as its end would go unnoticed
        self.checked.set()
        self._retire()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.check()
            self._stop.wait(self.every)

    def _follow(self, variant: str) -> bool:
        """Check one variant; return whether registry and store answered."""
        try:
            begun = self._check_ledger(variant)
            version = deployment.deployed(self._workspace, variant)
            self._contact = time.monotonic()
            served = self._load_version(version)
            self.refused.pop(variant, None)
            if self._roster.deployed().get(variant) is not served:
                self._roster.deploy(variant, served)
                self._last_good.keep(variant, served)
                log.info("%s: new games get %s, adapter %s", variant, served.name, served.adapter_hash)
            self._follow_canary(variant, served, begun)
        except (VersionRejectedError, EngineError) as error:
            self._refuse(variant, str(error))
        except Exception as error:
            if is_transient(error):
                log.warning("%s: registry or store unreachable (%s)", variant, type(error).__name__)
                return False
            self._refuse(variant, self._without_address(error))
        return True

    def _follow_canary(self, variant: str, served: Version, begun: ledger.Entry | None) -> None:
        """Put the candidate of a canary on offer next to the deployed version, or take it back."""
        canary = begun.canary if begun is not None else None
        if begun is None or canary is None or self._refusal(begun):
            return self._withdraw(variant)
        if self._canaries.get(variant) == begun and len(self._roster.offers()[variant].versions) > 1:
            return None
        try:
            version = registry.named(self._workspace, canary.candidate)
            if version.tags.get("adapter_hash") != canary.adapter_hash:
                raise VersionRejectedError(f"{canary.candidate} has another adapter than the ledger says")
            candidate = self._load_version(version)
        except EngineError as error:  # at the next check
            log.warning("%s: %s cannot be loaded yet: %s", variant, canary.candidate, error)
            return self._withdraw(variant)
        except ValueError as error:
            return self._refuse_candidate(variant, begun, self._without_address(error))
        self._canaries[variant] = begun
        self._roster.offer(variant, Offer(served, candidate, canary.share, canary.chosen))
        log.info("%s: %.0f%% of new games get %s", variant, 100 * canary.share, candidate.name)
        return None

    def failed(self, variant: str, served: Version, fault: str) -> None:
        """Take the candidate of a canary back that fails to act; do nothing about any other version."""
        begun, offer = self._canaries.get(variant), self._roster.offers().get(variant)
        if begun is not None and offer is not None and offer.candidate is served:
            self._refuse_candidate(variant, begun, f"{served.name} fails to act ({fault})")

    def _refusal(self, begun: ledger.Entry) -> str | None:
        """Return why a server refused a candidate; what this one could not write before is written now."""
        store, own = self._workspace.open(), self._refused_candidates.get((begun.model, begun.number))
        known = canary_looks.refused(store, begun)
        if own is not None and known is None:
            canary_looks.refuse(store, begun, own)
        return known or own

    def _refuse_candidate(self, variant: str, begun: ledger.Entry, reason: str) -> None:
        self._refused_candidates[begun.model, begun.number] = reason
        self._withdraw(variant)
        log.error("%s: the candidate is not served: %s", variant, reason)
        with suppress(StoreError):  # then at the next check
            canary_looks.refuse(self._workspace.open(), begun, reason)

    def _withdraw(self, variant: str) -> None:
        if self._canaries.pop(variant, None) is not None:
            self._roster.withdraw(variant)
            log.info("%s: new games get what is deployed", variant)

    def _fall_back(self, variant: str) -> None:
        """If nothing acts yet, use what acted before a restart, if its files are still on this machine."""
        version = None if variant in self._roster.deployed() else self._last_good.version(variant)
        if version is None:
            return
        try:
            served = self._load_version(version)
        except Exception as error:  # no files here, and the registry is unreachable or has none
            log.warning("%s: what acted last cannot act again (%s)", variant, type(error).__name__)
        else:
            self._roster.deploy(variant, served)
            log.warning("%s: new games get what acted last: %s, adapter %s", variant, served.name, served.adapter_hash)

    def _check_ledger(self, variant: str) -> ledger.Entry | None:
        """Read the ledger, and return the entry of the variant's canary, if one is in force.

        It only grows: fewer entries mean an unreachable store or another one, not a rollback.
        """
        for name in (variant, SEED):
            history = ledger.entries(self._workspace.open(), registry.model_name(name))
            entries = len(history)
            if entries < (previous := self._entries.get(name, 0)):
                raise VersionRejectedError(
                    f"the ledger had {previous} entries and has {entries}; restore the store, or restart the server"
                )
            self._entries[name] = entries
            if entries:  # or else the seed policy's ledger says what acts
                return ledger.in_canary(history)
        return None

    def _load_version(self, version: ModelVersion) -> Version:
        """Load a version, ready to act; a refused one is not fetched again at every check."""
        key = f"{version.name}/{version.version}", version.tags["adapter_hash"]
        refused = self._refused_versions.get(key)
        if refused and time.monotonic() - refused[0] < RETRY:
            raise VersionRejectedError(refused[1])
        self._loading = True
        try:
            return self._load(version)
        except VersionRejectedError as error:
            self._refused_versions[key] = time.monotonic(), str(error)
            raise
        finally:
            self._loading = False

    def _without_address(self, error: Exception) -> str:
        """Return what an error says without the registry's address, which may contain a password."""
        return str(error).replace(self._workspace.tracking_uri, "the registry")

    def _refuse(self, variant: str, reason: str) -> None:
        self._withdraw(variant)
        if self.refused.get(variant) != reason:
            self.refused[variant] = reason
            log.error("%s: not served: %s", variant, reason)

    def _retire(self) -> None:
        """Drop versions that neither a variant nor a running game needs; their memory is freed at once."""
        on_offer = [version for offer in self._roster.offers().values() for version in offer.versions]
        in_use = {version.name for version in (*self._roster.running(), *on_offer)}
        if retired := self._in_use - in_use:
            log.info("freed: %s", ", ".join(sorted(retired)))
            gc.collect()
        self._in_use = in_use
