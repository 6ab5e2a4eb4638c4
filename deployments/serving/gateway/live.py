"""Compute live evidence again and again, in a thread, for the operator's page and for Prometheus.

No request waits for it, nothing is decoded for it, and it holds nothing that a user wrote.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from deployments.failures import place_of
from respect_core.release.live import Offered, PairFigures, VersionFigures
from respect_core.store.base import Store
from tasks.release.live_log import LiveLog

log = logging.getLogger(__name__)
EVERY = 60.0
_VERSION = ["variant", "version"]


@dataclass(frozen=True)
class Evidence:
    """What is known at a time. `decoder` and the last `round` that it decoded: None before one did."""

    at: float
    versions: list[VersionFigures]
    pairs: list[PairFigures]
    decoder: str | None
    round: int | None


class Live(Collector):
    """Live evidence of the gateways on a store.

    Args:
        on_offer: returns the versions that new conversations get, each with its variant.
        every: seconds between two computations.
    """

    def __init__(self, store: Store, on_offer: Callable[[], Collection[Offered]], every: float = EVERY) -> None:
        self.every = every
        self.evidence: Evidence | None = None  # before the first time
        self._log, self._on_offer, self._offered = LiveLog(store), on_offer, set[Offered]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live evidence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End, without waiting for a store that does not answer."""
        self._stop.set()
        self._thread.join(timeout=10)

    def compute(self) -> None:
        """Compute the evidence, if anything is new. Raises StoreError and TableError."""
        at, offered = time.time(), set(self._on_offer())
        if not self._log.follow() and offered == self._offered and self.evidence is not None:
            self.evidence = Evidence(**vars(self.evidence) | {"at": at})
            return
        versions = self._log.versions(offered)
        decoder, number = self._log.decoder or (None, None)
        self.evidence = Evidence(at, versions, self._log.pairs(versions), decoder, number)
        self._offered = offered

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the evidence as metrics; Prometheus calls it."""
        evidence = self.evidence
        age = GaugeMetricFamily("respect_live_evidence_age_seconds", "Since the live evidence was computed")
        conversations = _gauge("respect_live_conversations", "Conversations, of the last replies")
        waiting = _gauge("respect_follow_ups_waiting", "Follow-ups that no round has decoded")
        signs = _gauge("respect_follow_ups", "Decoded follow-ups", "sign")
        shares = [
            _gauge(f"respect_follow_up_share{ending}", f"Share of the decoded follow-ups{meaning}", "sign")
            for ending, meaning in (("", ""), ("_low", ", 95% interval by user"), ("_high", ", 95% interval by user"))
        ]
        if evidence is not None:
            age.add_metric([], time.time() - evidence.at)
        for each in evidence.versions if evidence is not None else ():
            labels = [each.variant, each.version]
            conversations.add_metric(labels, each.conversations)
            waiting.add_metric(labels, each.waiting)
            for sign, count in each.signs.items():
                signs.add_metric([*labels, sign], count)
                estimate = getattr(each.said, f"{sign}_follow_ups", None)
                if estimate is not None:
                    for gauge, value in zip(shares, (estimate.value, estimate.low, estimate.high), strict=True):
                        gauge.add_metric([*labels, sign], value)
        yield from (age, conversations, waiting, signs, *shares)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.compute()
            except Exception as error:  # the store is unreachable, or has a damaged table; what is known stays
                log.warning("live evidence is as of before: %s", place_of(error))
            self._stop.wait(self.every)


def _gauge(name: str, meaning: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, meaning, labels=[*_VERSION, *labels])
