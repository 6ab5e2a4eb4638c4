"""Choose the precision by the processor: bf16 where it is fast in it, and fp32 elsewhere.

CPUs with AMX tiles multiply matrices in bf16 several times as fast as in fp32; CPUs without are several times slower.
For training and acting, a whole base is in one precision (`of_base`). A decoder's labels turn on small differences, so
there only its products are in bf16 (`with_bf16_products`): weights and inputs are rounded, and all else, with the sums
over layers, is in fp32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from threading import local
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.cache_utils import DynamicLayer

from respect_core.model.attention import BF16
from respect_core.model.lora import view

_WIDE = 512
"""Width from which on matrices are large enough to gain by tiles."""


def of_base(device: torch.device, config: Any) -> torch.dtype:
    """Return the precision of a base: RESPECT_PRECISION, or bf16 on CUDA and where `has_fast_bf16` says so.

    There a step of SmolLM2-135M takes half the time in bf16.
    """
    from respect_core.settings import settings  # needs pydantic, which a bench on a GPU may lack

    if (named := settings().precision) != "auto":
        return torch.bfloat16 if named == "bfloat16" else torch.float32
    return torch.bfloat16 if device.type == "cuda" or has_fast_bf16(device, config) else torch.float32


def has_fast_bf16(device: torch.device, config: Any) -> bool:
    """Return whether the device is a CPU that multiplies this model's matrices in tiles of bf16."""
    is_wide = config.get_text_config().hidden_size >= _WIDE
    return device.type == "cpu" and is_wide and bool(torch.cpu._is_amx_tile_supported())


class Bf16Linear(nn.Module):
    """A linear layer whose weights and inputs are rounded to bf16, and whose results are in the inputs' precision."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", layer.weight.detach().to(torch.bfloat16))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().to(torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output [..., out] on `x` [..., in]."""
        return linear(_rounded(x), self.weight, self.bias).to(x.dtype)


class _Last(local):
    """A thread's last input that was rounded, and the result: a layer's projections take the same one."""

    of: Callable[[], Tensor | None] = staticmethod(lambda: None)
    result: Tensor


_last = _Last()


def _rounded(x: Tensor) -> Tensor:
    if _last.of() is not x:
        _last.of, _last.result = ref(x), x.to(torch.bfloat16)
    return _last.result


class _RoundedLayer(DynamicLayer):
    """Keys and values of a layer in bf16, in which they are attended to anyway."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return super().update(key_states.bfloat16(), value_states.bfloat16(), *args, **kwargs)


def round_cache(cache: Any) -> None:
    """Round a cache of keys and values in place, for a model from `with_bf16_products`; other kinds stay."""
    for layer in cache.layers:
        if type(layer) is DynamicLayer and layer.keys is not None and layer.values is not None:
            layer.__class__ = _RoundedLayer
            layer.keys, layer.values = layer.keys.bfloat16(), layer.values.bfloat16()


def with_bf16_products(model: Any) -> Any:
    """Return the model with its linear layers' and attention's products in bf16, for evaluation.

    Its head stays as it is. All but the rounded matrices is shared with `model`, which stays as it was.
    """
    result, head = view(model), model.get_output_embeddings()
    configs: dict[int, Any] = {}
    for name, module in list(result.named_modules()):
        if "config" in vars(module):  # which attention it takes is a setting
            module.config = configs.setdefault(id(module.config), copy.deepcopy(module.config))
        if isinstance(module, nn.Linear) and module.weight is not head.weight:
            result.set_submodule(name, Bf16Linear(module))
    result.set_attn_implementation(BF16)
    return result
