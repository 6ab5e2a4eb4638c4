"""Several servers tell of themselves as one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from deployments.serving.gathered import combine, exposition, gather
from deployments.serving.schema import Readiness, VariantState


def _state(version: str | None, *, contact: float | None = 1.0, refused: str = "", games: int = 2) -> Readiness:
    return Readiness(
        ready=version is not None,
        following=contact is not None,
        seconds_since_contact=contact,
        variants={"b-fft": VariantState(version=version, adapter_hash=version, refused=refused or None)},
        running_games={version: games} if version else {},
    )


def test_what_is_said_is_true_of_each() -> None:
    found = combine([_state("respect.b-fft/10", contact=3.0), _state("respect.b-fft/9", refused="it does not load")])
    assert (found.ready, found.following, found.seconds_since_contact) == (True, True, 3.0)
    state = found.variants["b-fft"]
    assert (state.version, state.adapter_hash, state.refused) == (
        "respect.b-fft/9",
        "respect.b-fft/9",
        "it does not load",
    )
    assert found.running_games == {"respect.b-fft/10": 2, "respect.b-fft/9": 2}
    assert combine([_state("a/1"), _state("a/1", games=5)]).running_games == {"a/1": 7}

    found = combine([_state("respect.b-fft/1"), _state(None, contact=None)])
    assert (found.ready, found.following, found.seconds_since_contact) == (False, False, None)
    assert found.variants["b-fft"].version is None
    assert not combine([]).ready


def test_metrics_of_servers_stay_apart() -> None:
    texts = []
    for replica in ("one", "two"):
        registry = CollectorRegistry()
        Counter("acts", "Turns answered", ["version"], registry=registry, namespace="respect").labels("v").inc(3)
        Counter("responses", "Replies", registry=registry, namespace="respect").inc()
        Histogram("act_seconds", "Latency", registry=registry, namespace="respect").observe(0.2)
        texts.append((replica, generate_latest(registry).decode()))
    text = exposition(gather(texts, {"respect_responses"})).decode()
    for replica in ("one", "two"):
        assert f'respect_acts_total{{replica="{replica}",version="v"}} 3.0' in text
        assert f'respect_act_seconds_count{{replica="{replica}"}} 1.0' in text
    assert "respect_responses" not in text and text.count("# TYPE respect_acts_total counter") == 1
    assert {family.name for family in text_string_to_metric_families(text)} >= {"respect_acts", "respect_act_seconds"}
