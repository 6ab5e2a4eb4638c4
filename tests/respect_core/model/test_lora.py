"""LoRA layers of our own against PEFT's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from unittest.mock import patch

import models
import peft
import pytest
import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor

from respect_core.model.lora import LeanLinear, draws, keep_mask, make_lean, merged
from respect_core.model.packing import collate, encode, score
from respect_core.scenarios.multiref.scenario import SCENARIO
from respect_core.variants import LoraConfig, word_lora

BATCH = collate([encode(models.game(seed, turns=2), models.base().processor, SCENARIO) for seed in (1, 2)], 0)
PLACEMENTS = pytest.mark.parametrize("placement", [LoraConfig, word_lora])
Placement = Callable[[], LoraConfig]


def _logp(model: Any) -> Tensor:
    return score(model, BATCH, models.features()).logp


def _lean(placement: Placement) -> Any:
    model = models.random_lora(**asdict(placement()))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_embedding_A" in name:  # zero in a fresh adapter
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def _stock(placement: Placement) -> Any:
    return _made_stock(_lean(placement))


def _made_stock(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, LeanLinear):
            module.__class__ = Linear
    return model


@PLACEMENTS
def test_lean_layers_equal_pefts(placement: Placement) -> None:
    """Values and gradients, without dropout."""
    lean, stock = _lean(placement), _stock(placement)
    values = [_logp(model) for model in (lean, stock)]
    torch.testing.assert_close(*values, atol=1e-5, rtol=1e-5)
    for value in values:
        value.sum().backward()
    for (name, one), (_, other) in zip(lean.named_parameters(), stock.named_parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-3, rtol=1e-3, msg=name)


def test_all_but_one_plain_adapter_is_pefts() -> None:
    """No adapter, or one with DoRA that was added later."""
    model = _lean(LoraConfig)
    with model.disable_adapter():
        torch.testing.assert_close(_logp(model), _logp(models.base().model))
    dora = peft.LoraConfig(target_modules=LoraConfig().targets, use_dora=True, init_lora_weights=False)
    model.add_adapter("dora", dora)
    model.set_adapter("dora")
    lean = _logp(model)
    assert not torch.allclose(lean, _logp(models.base().model), atol=0.1)
    torch.testing.assert_close(_logp(_made_stock(model)), lean)


@PLACEMENTS
def test_dropout_is_on_in_training_alone(placement: Placement) -> None:
    model = _lean(placement)
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


@PLACEMENTS
def test_merged_equals_unmerged_and_leaves_the_model(placement: Placement) -> None:
    model = _lean(placement)
    before = _logp(model)
    assert not torch.allclose(before, _logp(models.base().model), atol=0.1)  # a lost adapter would show
    plain = merged(model)
    assert not any("lora" in name for name, _ in plain.named_modules())
    torch.testing.assert_close(_logp(plain), before, atol=1e-4, rtol=1e-4)
    assert torch.equal(_logp(model), before)
    assert plain.lm_head.weight.data_ptr() == models.base().model.lm_head.weight.data_ptr()


@PLACEMENTS
@pytest.mark.parametrize("safe", [False, True])
def test_pefts_own_merge_keeps_the_adapter(placement: Placement, safe: bool) -> None:
    """What `merged` gives, and what the layers compute unmerged; and it can be undone."""
    model = _lean(placement)
    before = _logp(model)
    whole = copy.deepcopy(model)  # PEFT merges into the base's own weights
    whole.merge_adapter(safe_merge=safe)
    torch.testing.assert_close(_logp(whole), before, atol=1e-4, rtol=1e-4)
    whole.unmerge_adapter()
    torch.testing.assert_close(_logp(whole), before, atol=1e-4, rtol=1e-4)
    plain = whole.merge_and_unload(safe_merge=safe)
    for (name, one), (_, other) in zip(plain.named_parameters(), merged(model).named_parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5, msg=name)
    torch.testing.assert_close(_logp(plain), before, atol=1e-4, rtol=1e-4)


def test_dropout_in_bf16_drops_the_same_inputs_forward_and_backward() -> None:
    """With A the identity, the output is the kept inputs, and so is what each input gets of the gradient."""
    width, p = 64, 0.25
    layer = torch.nn.Linear(width, width, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    layer.weight.zero_()
    model = peft.get_peft_model(
        torch.nn.Sequential(layer),
        peft.LoraConfig(r=width, lora_alpha=width, lora_dropout=p, target_modules=["0"]),
    ).train()
    make_lean(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.eye(width))
    x = torch.ones(500, width, dtype=torch.bfloat16, requires_grad=True)
    with draws(0):
        y = model(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y, gradient)
    kept = y != 0
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=0.01)
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - p)))
    with draws(0):
        assert torch.equal(model(x), y)
    with draws(1):
        assert not torch.equal(model(x), y)


def test_masks_on_another_device_do_not_come_from_the_generator_of_the_cpu() -> None:
    """Which such a device refuses; "meta" stands for one here."""
    like = torch.empty(5, 7, device="meta")
    with draws(0), patch.object(torch.Tensor, "random_", autospec=True) as random:
        keep_mask(like, 0.5)
    assert random.call_args.kwargs["generator"] is None
    with draws(0), patch.object(torch.Tensor, "random_", autospec=True) as random:
        keep_mask(torch.empty(5, 7), 0.5)
    assert random.call_args.kwargs["generator"] is not None
