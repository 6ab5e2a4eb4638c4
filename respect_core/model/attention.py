"""Attend in another precision than a model's, on a CPU.

In fp32 below a model in bf16 that learns: torch's bf16 kernel takes twice as long, most of it backward. In bf16 below a
model in fp32 that only scores: forward, its products are in tiles.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

FP32 = "sdpa_fp32"
BF16 = "sdpa_bf16"
"""The names under which transformers knows them."""


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


def _attend_in_bf16(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attend as transformers' own function does, in bf16; shapes as in `_attend`."""
    if attention_mask is not None and attention_mask.dtype != torch.bool:
        attention_mask = attention_mask.bfloat16()
    attended, _ = sdpa_attention_forward(
        module, query.bfloat16(), key.bfloat16(), value.bfloat16(), attention_mask, **kwargs
    )
    return attended.to(query.dtype), None


def _attend_from_one(
    query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scale: float | None
) -> Tensor:
    """Attend from one token [B, heads, 1, D]: heads that share keys and values attend together, and copy neither."""
    rows, heads, _, width = query.shape
    together = query.reshape(rows, key.shape[1], -1, width)
    attended = scaled_dot_product_attention(together, key, value, attn_mask=attention_mask, scale=scale)
    return attended.reshape(rows, 1, heads, width)


for _name, _function in ((FP32, _attend), (BF16, _attend_in_bf16)):
    AttentionInterface.register(_name, _function)
    ALL_MASK_ATTENTION_FUNCTIONS.register(_name, sdpa_mask)
