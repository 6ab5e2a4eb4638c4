"""TRL's trainers on the same games and the same model, where TRL is installed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from respect_core.model.base import Base
from respect_core.model.vision import VisionFeatures
from respect_core.variants import Objective
from tests.bench.gpu import games, phases
from tests.bench.gpu.measure import Bench, OnDevice, Work

GAMES = 2  # of TRL's: one example per turn
BATCH = 4
NEEDS = ("trl", "datasets")


def lacking() -> list[str]:
    return [name for name in NEEDS if find_spec(name) is None]


def train(
    bench: Bench, base: Base, features: VisionFeatures, scale: phases.Scale, seconds: float
) -> Iterator[OnDevice]:
    """FFT against SFTTrainer, KTO against KTOTrainer: one step each of as many turns, both warmed up."""
    from tests.bench import peers

    plain: dict[str, Any] = {"entropy_weight": 0.0, "label_smoothing": 0.0}
    for objective, kind, name in ((Objective.FFT, "sft", "trl.SFTTrainer"), (Objective.KTO, "kto", "trl.KTOTrainer")):
        config = replace(phases.configuration(objective, scale), **plain, max_steps=1)
        phases.steps(bench, base, features, scale, config)
        ours, _ = phases.steps(bench, base, features, scale, config)
        data = games.examples(GAMES, scale.turns, positives=objective is Objective.FFT)
        trainer = peers.trainer(kind, base, data, config, phases.LORA, BATCH, games.Pictures(_side(base)).__getitem__)
        started = time.monotonic()
        trainer.train()
        if time.monotonic() - started > min(seconds / 4, bench.left / 2):
            note = f"the peer's time includes its start: {GAMES} games took too long to run again"
            peer = Work(seconds=time.monotonic() - started)
        else:
            note = ""
            trainer.data_collator.tokens, trainer.data_collator.flops = 0, 0.0
            bench.wait()
            again = time.perf_counter()
            trainer.train()
            bench.wait()
            peer = Work(seconds=time.perf_counter() - again)
        peer.turns = len(trainer.train_dataset)
        peer.counts.tokens = round(trainer.data_collator.tokens * ours.turns / peer.turns)
        peer.counts.flops = trainer.data_collator.flops * ours.turns / peer.turns
        yield bench.record(
            f"gpu-trl-{objective}", base.name, ours, turns_per_game=scale.turns, peer=peer,
            peer_name=f"{name}, batches of {BATCH}", note=note,
        )  # fmt: skip


def _side(base: Base) -> int:
    return int(base.processor.image_processor.size["height"])
