"""LoRA layers of our own against PEFT's."""

from __future__ import annotations

from typing import Any

import models
import pytest
import torch
from torch import Tensor

from respect_core.lora import keep_mask, merged
from respect_core.packing import collate, encode, score

BATCH = collate([encode(models.game(seed, turns=2), models.base().processor) for seed in (1, 2)], 0)


def _logp(model: Any) -> Tensor:
    return score(model, BATCH, models.features()).logp


def _stock() -> Any:
    model = models.random_lora()
    for module in model.modules():
        getattr(module, "lora_variant", {}).clear()
    return model


def test_lean_layers_equal_pefts() -> None:
    """Values and gradients, without dropout."""
    lean, stock = models.random_lora(), _stock()
    values = [_logp(model) for model in (lean, stock)]
    torch.testing.assert_close(*values, atol=1e-5, rtol=1e-5)
    for value in values:
        value.sum().backward()
    for (name, one), (_, other) in zip(lean.named_parameters(), stock.named_parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-3, rtol=1e-3, msg=name)


def test_dropout_is_on_in_training_alone() -> None:
    model = models.random_lora()
    assert torch.equal(_logp(model), _logp(model))
    model.train()
    assert not torch.equal(_logp(model), _logp(model))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_mask_keeps_as_many_as_it_says(p: float) -> None:
    """In every lane of a 64-bit draw, in independent places, and the same under the same seed."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        mask, kept = keep_mask(torch.empty(4_000, 101), p)
        torch.manual_seed(0)
        assert torch.equal(keep_mask(torch.empty(4_000, 101), p)[0], mask)
    assert kept == pytest.approx(1 - p, abs=1e-4)
    assert sorted(set(mask.flatten().tolist())) == [0.0, 1.0]
    lanes = mask.flatten()[: 4 * 101_000].view(-1, 4)
    assert lanes.mean(0).tolist() == pytest.approx([kept] * 4, abs=0.006)
    for lag in (1, 2, 4):
        flat = mask.flatten() - mask.mean()
        assert abs(float((flat[lag:] * flat[:-lag]).mean())) < 0.002


def test_merged_equals_unmerged_and_leaves_the_model() -> None:
    model = models.random_lora()
    before = _logp(model)
    plain = merged(model)
    assert not any("lora" in name for name, _ in plain.named_modules())
    torch.testing.assert_close(_logp(plain), before, atol=1e-4, rtol=1e-4)
    assert torch.equal(_logp(model), before)
    assert plain.lm_head.weight.data_ptr() == models.base().model.lm_head.weight.data_ptr()
