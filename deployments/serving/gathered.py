"""Combine the state and metrics of several servers into those of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from deployments.serving.schema import Readiness, VariantState


def combine(states: Sequence[Readiness]) -> Readiness:
    """Return what is true of all servers. If they have seen different versions, the lowest number counts."""

    def state(variant: str) -> VariantState:
        versions = [state.variants[variant] for state in states]
        least = min(versions, key=lambda state: _number(state.version))
        refused = next((state.refused for state in versions if state.refused), None)
        return least.model_copy(update={"refused": refused})

    contacts = [state.seconds_since_contact for state in states]
    answered = [contact for contact in contacts if contact is not None]
    games: Counter[str] = Counter()
    for server in states:
        games.update(server.running_games)
    return Readiness(
        ready=bool(states) and all(state.ready for state in states),
        following=bool(states) and all(state.following for state in states),
        seconds_since_contact=max(answered) if answered and len(answered) == len(contacts) else None,
        variants={variant: state(variant) for variant in (states[0].variants if states else ())},
        running_games=dict(games),
    )


def _number(version: str | None) -> int:
    """Return the number of a version; no version sorts first."""
    return int(version.rpartition("/")[2]) if version else -1


def gather(texts: Iterable[tuple[str, str]], without: set[str]) -> list[Metric]:
    """Gather the metrics of servers, each with the server's name as label `replica`.

    Args:
        texts: each server's name and metrics, in the exposition format.
        without: names of metrics to leave out.
    """
    families: dict[str, Metric] = {}
    for replica, text in texts:
        for family in text_string_to_metric_families(text):
            if family.name.removesuffix("_created") not in without:
                merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    merged.samples.append(sample._replace(labels={**sample.labels, "replica": replica}))
    return list(families.values())


def exposition(metrics: Iterable[Metric]) -> bytes:
    """Return metrics as text for Prometheus."""
    return generate_latest(_Collector(metrics))


class _Collector:
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics
