"""An adapter that goes on with more layers than it had."""

from __future__ import annotations

from pathlib import Path

import models
import torch

from respect_core.model import packing
from respect_core.model.base import attach_lora, grow_adapter, load_adapter, save_adapter
from respect_core.scenarios.multiref.scenario import SCENARIO
from respect_core.variants import LoraConfig, enhanced, word_lora


def _score(model: object) -> torch.Tensor:
    batch = packing.collate([packing.encode(models.game(80), models.base().processor, SCENARIO)], 0)
    logp: torch.Tensor = packing.score(model, batch, models.features()).logp
    return logp


def test_new_layers_change_nothing_until_they_are_trained(tmp_path: Path) -> None:
    for number, plain in enumerate((LoraConfig(), word_lora())):  # idefics2-8b's placement, and tiny's
        adapter = tmp_path / str(number)
        save_adapter(attach_lora(models.base(), plain, seed=1), adapter)
        before = load_adapter(models.base(), adapter)
        grown = grow_adapter(models.base(), adapter, enhanced(plain), seed=5)
        torch.testing.assert_close(_score(grown.eval()), _score(before), atol=1e-5, rtol=1e-5)
        known = {name for name, _ in before.named_parameters()}
        fresh = {name for name, _ in grown.named_parameters() if "lora_" in name and name not in known}
        assert fresh and all("vision_model" in name for name in fresh)
        assert all(weight.requires_grad for name, weight in grown.named_parameters() if name in fresh)
        for name, weight in before.named_parameters():
            if "lora_" in name:
                assert torch.equal(weight, dict(grown.named_parameters())[name])


def test_an_adapter_of_the_same_or_another_placement_keeps_its_own(tmp_path: Path) -> None:
    save_adapter(models.random_lora(), tmp_path / "plain")
    names = {name for name, _ in load_adapter(models.base(), tmp_path / "plain").named_parameters()}
    for config in (LoraConfig(), LoraConfig(rank=4), LoraConfig(targets=r".*text_model.*q_proj$")):
        grown = grow_adapter(models.base(), tmp_path / "plain", config, seed=5)
        assert {name for name, _ in grown.named_parameters()} == names
        torch.testing.assert_close(_score(grown.eval()), _score(load_adapter(models.base(), tmp_path / "plain")))
