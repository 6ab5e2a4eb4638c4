"""Precision: bf16 where the processor is fast in it, with heads, losses, adapters and their gradients in fp32."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from text_bases import small_llama
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from respect_core.interaction import Interaction, Turn
from respect_core.model import local, packing
from respect_core.model.attention import BF16
from respect_core.model.base import Base, attach_lora, load_base
from respect_core.model.lora import merged
from respect_core.model.precision import round_cache, with_bf16_products
from respect_core.model.vision import VisionFeatures
from respect_core.scenario import scenario
from respect_core.variants import LoraConfig

TALK = Interaction("talk", (), (Turn("", "turn it on", "done"), Turn("", "no, off", "off it is")))
LORA = LoraConfig(targets=r".*(q_proj|down_proj)$", dropout=0.0)


def base(dtype: torch.dtype | None = None) -> Base:
    return load_base(small_llama(), scenario("chat"), device="cpu", dtype=dtype)


def batch(one: Base) -> packing.PackedBatch:
    return packing.collate([packing.encode(TALK, one.processor, one.scenario)], 0)


def test_a_narrow_model_is_in_fp32_and_a_wide_one_in_bf16_where_tiles_multiply_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert base().model.dtype == torch.float32
    monkeypatch.setattr("respect_core.model.precision._WIDE", 32)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert base().model.dtype == torch.float32
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert base().model.dtype == torch.bfloat16


def test_bf16_scores_are_those_of_fp32_but_for_rounding() -> None:
    scores = []
    for dtype in (torch.float32, torch.bfloat16):
        one = base(dtype)
        scores.append(packing.score(one.model, batch(one), VisionFeatures(one, {})).logp)
    torch.testing.assert_close(scores[0], scores[1], atol=0.05, rtol=0.01)


def test_adapters_of_a_bf16_model_learn_in_fp32_and_fold_into_bf16() -> None:
    one = base(torch.bfloat16)
    model = attach_lora(one, LORA, seed=0)
    packing.score(model, batch(one), VisionFeatures(one, {})).logp.sum().backward()
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert weights and all(weight.dtype == torch.float32 for weight in weights.values())
    assert all(weight.grad is not None and weight.grad.dtype == torch.float32 for weight in weights.values())
    with torch.no_grad():
        for name, weight in weights.items():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    model.eval()
    folded = merged(model)
    assert {weight.dtype for weight in folded.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        torch.testing.assert_close(
            packing.score(folded, batch(one), VisionFeatures(one, {})).logp,
            packing.score(model, batch(one), VisionFeatures(one, {})).logp,
            atol=0.1,
            rtol=0.02,
        )


def test_a_scorer_s_products_alone_are_rounded() -> None:
    """The head, the norms and what is summed over layers stay in fp32, and so does the model itself."""
    one = base(torch.float32)
    before = {name: weight.clone() for name, weight in one.model.state_dict().items()}
    fast, ids = with_bf16_products(one.model), torch.arange(40, 80)[None]
    hidden: list[torch.Tensor] = []
    fast.get_output_embeddings().register_forward_pre_hook(lambda _, given: hidden.append(given[0]))
    with torch.inference_mode():
        expected, found = one.model(ids).logits, fast(ids).logits
    assert found.dtype == hidden[0].dtype == torch.float32
    assert 0 < (found - expected).norm() < 0.02 * expected.norm()
    assert one.model.config._attn_implementation == "sdpa" and fast.config._attn_implementation == BF16
    assert all(torch.equal(weight, before[name]) for name, weight in one.model.state_dict().items())
    with torch.inference_mode():
        torch.testing.assert_close(one.model(ids).logits, expected, rtol=0, atol=0)


def test_a_decoder_is_loaded_with_rounded_products_where_tiles_multiply_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("respect_core.model.precision._WIDE", 32)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for has_tiles, named, expected in (
        (True, "auto", "bfloat16 products"),
        (False, "auto", "float32"),
        (True, "float32", "float32"),
        (False, "bfloat16", "bfloat16"),
    ):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has_tiles=has_tiles: has_tiles)
        monkeypatch.setenv("RESPECT_PRECISION", named)
        assert local.load(small_llama()).precision == expected
    assert base().model.dtype == torch.bfloat16, "so is a base"


def test_one_token_attends_as_transformers_lets_it() -> None:
    """Heads that share keys and values, rows with padding, keys that are part of a larger tensor."""
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (
        torch.randn(4, heads, tokens, 16, generator=generator) for heads, tokens in ((6, 1), (2, 40), (2, 40))
    )
    keys, values = keys[:, :, :33], values[:, :, :33]
    mask = torch.arange(33) >= torch.tensor([0, 5, 9, 32])[:, None, None, None]
    module = SimpleNamespace(num_key_value_groups=3, is_causal=True)
    for given in (mask, None):
        expected, _ = sdpa_attention_forward(module, query, keys, values, given, scaling=0.3)
        attended, _ = ALL_ATTENTION_FUNCTIONS[BF16](module, query, keys, values, given, scaling=0.3)
        torch.testing.assert_close(attended, expected)


@pytest.mark.parametrize("kind", ["causal", "bool", "additive", "crossed"])
def test_attention_in_bf16_learns_as_in_fp32(kind: str) -> None:
    """Values and gradients over more than one block of queries, with heads that share keys and values."""
    generator = torch.Generator().manual_seed(0)
    tokens, keys = 150, 90 if kind == "crossed" else 150

    def draw(heads: int, length: int) -> torch.Tensor:
        return torch.randn(2, heads, length, 16, generator=generator)

    given = [draw(6, tokens), draw(2, keys), draw(2, keys)]
    sees = torch.ones(tokens, keys, dtype=torch.bool).tril()
    sees[20:30, 5:12] = False
    masks = {"bool": sees.expand(2, 1, -1, -1), "additive": torch.zeros(2, 1, tokens, keys).masked_fill(~sees, -1e30)}
    module = SimpleNamespace(num_key_value_groups=3, is_causal=kind != "crossed")
    gradient, found = draw(6, tokens).transpose(1, 2), []
    for dtype, attend in ((torch.float32, sdpa_attention_forward), (torch.bfloat16, ALL_ATTENTION_FUNCTIONS[BF16])):
        inputs = [each.to(dtype).requires_grad_() for each in given]
        attended, _ = attend(module, *inputs, masks.get(kind), scaling=0.3)
        found.append([attended, *torch.autograd.grad(attended, inputs, gradient.to(dtype))])
    for exact, rounded in zip(*found, strict=True):
        assert rounded.dtype == torch.bfloat16
        assert (rounded.float() - exact).norm() < 0.01 * exact.norm()


def test_adapted_layers_in_bf16_learn_as_in_fp32() -> None:
    """Without dropout: log-probabilities, and the gradients of all adapters together."""
    values, gradients = [], []
    for dtype in (torch.float32, torch.bfloat16):
        one = base(dtype)
        model = attach_lora(one, LORA, seed=0)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.copy_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        logp = packing.score(model, batch(one), VisionFeatures(one, {})).logp
        assert logp.dtype == torch.float32
        logp.sum().backward()
        values.append(logp)
        gradients.append(torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None]))
    torch.testing.assert_close(*values, atol=0.05, rtol=0.01)
    assert gradients[1].dtype == torch.float32
    assert (gradients[0] - gradients[1]).norm() < 0.03 * gradients[0].norm()


def test_a_cache_of_a_scorer_is_rounded_once_to_the_same_scores() -> None:
    """What attention rounds at every pass may as well be kept in bf16; projections of one input share its rounding."""
    one = base(torch.float32)
    fast, ids = with_bf16_products(one.model), torch.arange(40, 80)[None]
    found = []
    with torch.inference_mode():
        for rounds in (False, True):
            past = one.model(ids, use_cache=True).past_key_values
            if rounds:
                round_cache(past)
                assert past.layers[0].keys.dtype == torch.bfloat16
            found.append(fast(ids[:, :7], past_key_values=past, use_cache=True).logits)
    assert torch.equal(*found)
