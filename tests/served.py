"""A turn that was served."""

from __future__ import annotations

from respect_core.acting.served_turns import ServedTurn


def turn(number: int) -> ServedTurn:
    return ServedTurn(
        time="2026-11-24T12:00:00+00:00",
        game="g1",
        turn=number,
        variant="b-fft",
        version="respect.b-fft/3",
        adapter_hash="0" * 64,
        action="select A",
        legal=True,
        probability=0.25,
        seed=7,
        temperature=1.0,
        latency_ms=12.5,
    )
