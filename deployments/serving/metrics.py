"""Count and time what the policy server does, for Prometheus at /metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.registry import Collector

from deployments.serving.follow import Follower
from deployments.serving.versions import Version
from respect_core.acting.roster import Roster


class Metrics:
    """Metrics: events are counted as they happen, states are read on request. Names begin with `respect_`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        options: dict[str, Any] = {"registry": self._registry, "namespace": "respect"}
        self.acts = Counter("acts", "Turns answered", ["variant", "version"], **options)
        self.responses = Counter("responses", "Replies to /act by status code", ["code"], **options)
        buckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
        self.seconds = Histogram("act_seconds", "From a request's arrival to its action", buckets=buckets, **options)
        self.passes = Histogram("pass_turns", "Turns in one pass", buckets=[1, 2, 4, 8, 16, 32, 64], **options)
        self._waiting = Gauge("waiting_requests", "Requests that wait for a pass", **options)
        self._deployed = Gauge(
            "deployed_info", "1 for what new games get", ["variant", "version", "adapter_hash"], **options
        )
        self._canary = Gauge(
            "canary_share", "Share of new games that a candidate gets", ["variant", "version"], **options
        )
        self._games = Gauge("running_games", "Games by the version that acts in them", ["version"], **options)
        self._refused = Gauge("refused", "1 where what is deployed is not served", ["variant"], **options)
        self._following = Gauge("following", "0 while registry or store are unreachable", **options)
        self._contact = Gauge("contact_age_seconds", "Since registry and store last answered; NaN before", **options)
        self.cut = Counter("cut_replies", "Replies that their client did not wait for", **options)
        self.unlogged = Counter("unlogged_replies", "Replies to who did not agree to the log", **options)
        self.failed = Counter("failed_replies", "Replies that ended with an error", ["variant", "version"], **options)
        self.log_failures = Counter("log_failures", "Lines that went neither to disk nor to the store", **options)

    def add(self, collector: Collector) -> None:
        """Add what another part of the server knows."""
        self._registry.register(collector)

    def failures(self) -> dict[tuple[str, str], int]:
        """Count the replies that ended with an error, by variant and version."""
        samples = [each for metric in self.failed.collect() for each in metric.samples if each.name.endswith("_total")]
        return {(each.labels["variant"], each.labels["version"]): int(each.value) for each in samples}

    def text(self, roster: Roster[Version], follower: Follower[Version], waiting: int) -> bytes:
        """Return the metrics in the exposition format."""
        self._waiting.set(waiting)
        self._following.set(follower.following)
        since = follower.seconds_since_contact
        self._contact.set(float("nan") if since is None else since)
        _replace(self._games, {(version.name,): float(games) for version, games in roster.running().items()})
        _replace(self._refused, {(variant,): float(variant in follower.refused) for variant in follower.variants})
        canaries: dict[tuple[str, ...], float] = {
            (variant, offer.candidate.name): offer.share
            for variant, offer in roster.offers().items()
            if offer.candidate is not None
        }
        _replace(self._canary, canaries)
        deployed = roster.deployed().items()
        _replace(self._deployed, {(variant, served.name, served.adapter_hash): 1.0 for variant, served in deployed})
        return generate_latest(self._registry)


def _replace(gauge: Gauge, values: Mapping[tuple[str, ...], float]) -> None:
    gauge.clear()
    for labels, value in values.items():
        gauge.labels(*labels).set(value)
