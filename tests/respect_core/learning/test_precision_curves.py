"""Training in bf16 goes as training in fp32 does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from respect_core import profiles
from respect_core.learning.trainer import train
from respect_core.log.records import from_log
from respect_core.measuring.world import world
from respect_core.model.base import load_base
from respect_core.model.vision import VisionFeatures
from respect_core.scenario import scenario
from respect_core.training_data.curated import D0
from respect_core.training_data.sampling import Example

SEEDS, STEPS = (0, 1, 2), 8


@pytest.mark.timeout(1800)
@pytest.mark.slow
def test_curves_in_bf16_are_within_the_spread_of_seeds(tmp_path: Path) -> None:
    """SmolLM2-135M learns the tools of the smart home from people: the seed policy's first steps, with its settings."""
    profile, unused = profiles.home(), Any
    logs = world("home").game_set(unused, profile, D0)
    examples = [Example(each, (1,) * len(each.turns)) for each in map(from_log, logs)]
    config = replace(profile.seed_training, max_steps=STEPS, checkpoint_every=None)
    curves = []
    for dtype in (torch.float32, torch.bfloat16):
        base = load_base(profile.base, scenario("home"), device="cpu", dtype=dtype)
        features = VisionFeatures(base, {})
        runs = [
            train(base, examples, None, config, profile.lora, seed, tmp_path / str(seed), features=features)
            for seed in SEEDS
        ]
        curves.append(torch.tensor([[step.loss for step in run.history] for run in runs]))
    exact, rounded = curves  # [seeds, steps]
    assert (exact[:, -1] < 0.5 * exact[:, 0]).all(), "it learns"
    spread = (exact.amax(0) - exact.amin(0)).mean()
    apart = (rounded - exact).abs().mean(1)
    print(f"losses apart by {apart.tolist()}, seeds by {spread:.4f}; last {exact[:, -1]} {rounded[:, -1]}")
    assert (apart < spread).all()
