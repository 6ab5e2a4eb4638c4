"""Count and time what the game does, for Prometheus at /metrics; the policy server has metrics of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """The game's metrics, whose names begin with `respect_game_`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.seconds = Histogram(
            "respect_game_seconds",
            "The server's own time for a move, until it is on disk and sent; a policy's thinking is not in it.",
            ["move"],
            registry=self._registry,
            buckets=_SECONDS,
        )
        self.ended = Counter("respect_game_ended", "Games that are over.", ["reason"], registry=self._registry)
        self.refused = Counter("respect_game_refused", "Messages refused.", ["field"], registry=self._registry)
        self.failures = Counter(
            "respect_game_failures",
            "Failures of the journal's disk, the store, or a policy.",
            ["what"],
            registry=self._registry,
        )
        self.state = Gauge("respect_game_now", "Games, sockets and people who wait.", ["of"], registry=self._registry)

    def text(self, **now: int) -> bytes:
        """Return the metrics as text, with these present values of `respect_game_now`."""
        for name, number in now.items():
            self.state.labels(name).set(number)
        return generate_latest(self._registry)
