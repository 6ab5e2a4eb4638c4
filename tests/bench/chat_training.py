"""Training on conversations, turns with a loss per second: FFT and KTO with SmolLM2-135M, against TRL's text trainers.

The rules are those of `training`: the same conversations on both sides, in steps of as many turns. Adapters and the
size of a step are those of the profile `home`. KTO runs for one epoch: TRL could score its references once for several,
as ours does, so that more epochs favour neither. No reply has an alternative, so that z0 is 0 on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from respect_core import profiles
from respect_core.variants import Objective
from tests.bench import games, models
from tests.bench.record import Record, case
from tests.bench.training import MIDDLE, Method, Setting, measure

SMOLLM2 = Setting(models.CHAT, games=8, tried=2, batches=(2, 8, 16), repeats=2)
QUICK = Setting(models.CHAT, games=1, tried=1, batches=(8,), repeats=1, warm_up=False)


def _method(objective: Objective, kind: str, peer: str) -> Method:
    """One epoch with the profile's settings, without the terms that TRL lacks."""
    config = replace(
        profiles.home().training[objective].on("trl"),
        engine="packed",
        max_steps=None,
        epochs=1,
        warmup_steps=0,
        from_previous_adapter=False,
    )
    return Method(f"chat-{objective}", kind, peer, None, config)


FFT = _method(Objective.FFT, "sft", "trl.SFTTrainer")
KTO = _method(Objective.KTO, "kto", "trl.KTOTrainer")


@case("chat-fft")
def chat_fft(quick: bool) -> Iterator[Record]:
    return _all(FFT, quick)


@case("chat-kto")
def chat_kto(quick: bool) -> Iterator[Record]:
    return _all(KTO, quick)


def _all(method: Method, quick: bool) -> Iterator[Record]:
    for turns in (MIDDLE,) if quick else games.LENGTHS:
        yield measure(method, QUICK if quick else SMOLLM2, turns)
