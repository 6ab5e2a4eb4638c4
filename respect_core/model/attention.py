"""Attend in bf16 on a CPU that multiplies it in tiles, for models in bf16 and for those whose products alone are.

Forward, torch's kernel in bf16 takes half the time of that in fp32; backward, it takes twice as long. So a model that
learns attends in bf16, and its backward pass is in fp32.

Shapes: B rows, T queries, S keys, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

BF16 = "sdpa_bf16"
"""The name under which transformers knows it."""


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attend as transformers' own function does: query [B, heads, T, D], keys and values [B, KV heads, S, D]."""
    if query.shape[2] == 1:  # a single token after many: copies of the cache would cost more than they save
        return _attend_from_one(query, key, value, attention_mask, kwargs.get("scaling")), None
    if attention_mask is not None and attention_mask.dtype != torch.bool:
        attention_mask = attention_mask.bfloat16()
    rounded = query.bfloat16(), key.bfloat16(), value.bfloat16()
    learns = torch.is_grad_enabled() and any(each.requires_grad for each in rounded)
    if not learns or kwargs.get("dropout"):
        attended, _ = sdpa_attention_forward(module, *rounded, attention_mask, **kwargs)
        return attended.to(query.dtype), None
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        hidden = ~attention_mask
        attention_mask = torch.zeros_like(hidden, dtype=torch.bfloat16).masked_fill_(hidden, -torch.inf)
    query_BhTD, *others = rounded
    key_BhSD, value_BhSD = (repeat_kv(each, query.shape[1] // each.shape[1]) for each in others)
    is_causal = kwargs.get("is_causal")
    causal = attention_mask is None and (module.is_causal if is_causal is None else is_causal)
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    attended = _Attention.apply(query_BhTD, key_BhSD, value_BhSD, attention_mask, causal, scale)
    return attended.transpose(1, 2).contiguous().to(query.dtype), None


class _Attention(torch.autograd.Function):
    """Scaled dot-product attention of equally many heads of queries, keys and values in bf16."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float
    ) -> Tensor:
        attended, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=mask, scale=scale
        )
        ctx.save_for_backward(query, key, value, attended, log_sum, mask)
        ctx.causal, ctx.scale = causal, scale
        return attended

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, attended, log_sum, mask = ctx.saved_tensors
        exact = (each.float() for each in (*gradients, query, key, value, attended))
        mask = None if mask is None else mask.float()
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *exact, log_sum, 0.0, ctx.causal, attn_mask=mask, scale=ctx.scale
        )
        return *(each.bfloat16() for each in found), None, None, None


def _attend_from_one(
    query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scale: float | None
) -> Tensor:
    """Attend from one token [B, heads, 1, D]: heads that share keys and values attend together, and copy neither."""
    rows, heads, _, width = query.shape
    together = query.reshape(rows, key.shape[1], -1, width)
    attended = scaled_dot_product_attention(together, key, value, attn_mask=attention_mask, scale=scale)
    return attended.reshape(rows, 1, heads, width)


AttentionInterface.register(BF16, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(BF16, sdpa_mask)
