"""Combine the state and metrics of several servers into those of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from deployments.serving.schema import Readiness, VariantState


def together(states: Sequence[Readiness]) -> Readiness:
    """Return what is true of all servers. If they have seen different versions, the lowest number counts."""

    def state(variant: str) -> VariantState:
        each = [state.variants[variant] for state in states]
        least = min(each, key=lambda state: _number(state.version))
        refused = next((state.refused for state in each if state.refused), None)
        return least.model_copy(update={"refused": refused})

    contacts = [state.seconds_since_contact for state in states]
    known = [contact for contact in contacts if contact is not None]
    games: Counter[str] = Counter()
    for each in states:
        games.update(each.running_games)
    return Readiness(
        ready=bool(states) and all(state.ready for state in states),
        following=bool(states) and all(state.following for state in states),
        seconds_since_contact=max(known) if known and len(known) == len(contacts) else None,
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
    found: dict[str, Metric] = {}
    for replica, text in texts:
        for family in text_string_to_metric_families(text):
            if family.name.removesuffix("_created") not in without:
                whole = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    whole.samples.append(sample._replace(labels={**sample.labels, "replica": replica}))
    return list(found.values())


def exposition(metrics: Iterable[Metric]) -> bytes:
    """Return metrics as text for Prometheus."""
    return generate_latest(_Collected(metrics))


class _Collected:
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics
