"""Attend in fp32 below a model in bf16 on a CPU, where torch's bf16 kernel takes twice as long, most of it backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

FP32 = "sdpa_fp32"
"""The name under which transformers knows it."""


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attend as transformers' own function does: query [B, heads, T, D], keys and values [B, KV heads, P + T, D]."""
    if query.shape[2] == 1:  # a single token after many: copies of the cache would cost more than they save
        return _attend_from_one(query, key, value, attention_mask, kwargs.get("scaling")), None
    if attention_mask is not None and attention_mask.dtype != torch.bool:
        attention_mask = attention_mask.float()
    attended, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **kwargs)
    return attended.to(query.dtype), None


def _attend_from_one(
    query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scale: float | None
) -> Tensor:
    """Attend from one token [B, heads, 1, D]: heads that share keys and values attend together, and copy neither."""
    rows, heads, _, width = query.shape
    together = query.reshape(rows, key.shape[1], -1, width)
    attended = scaled_dot_product_attention(together, key, value, attn_mask=attention_mask, scale=scale)
    return attended.reshape(rows, 1, heads, width)


AttentionInterface.register(FP32, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(FP32, sdpa_mask)
