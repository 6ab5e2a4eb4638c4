"""Compute LoRA layers for training on a CPU: the same function as PEFT's own, in fewer passes over memory.

y = W x + B A dropout(x) alpha / r, as in PEFT. Only the cost differs: torch draws a dropout mask with one call of its
generator for each element, which was a quarter of a training step, and the product, its scaling and the sum were three
passes. Here one 64-bit draw serves four elements, and the rest is one `addmm`.

In bf16, layer and adapter are one function (`_Adapted`), which adds in place and keeps one mask for both passes, and
masks come from a faster generator.

For playing and validating, where weights are fixed, `merged` folds the adapter into copies of the matrices.

The mask: each element has 16 bits of its own and is dropped where they are below round(p 65536), independently of
all others; p = 0.1 becomes 0.100006, and elements that stay are divided by exactly their probability of staying. The
draws come from torch's generator, or inside `draws` from a separate one, so the same seed gives the same masks.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import peft
import torch
from peft.tuners.lora.layer import Embedding, Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn.functional import linear

BITS = 16
_generator: ContextVar[torch.Generator | None] = ContextVar("generator", default=None)


def view(model: nn.Module) -> Any:
    """Copy the module tree and share every weight: adapters on the copy leave the original as it is.

    Settings are shared too. `copy.deepcopy` with the weights in its memo would do, but every validation takes a view of
    the model in training, and ran a fifth slower with it.
    """
    copies: dict[int, nn.Module] = {}

    def copy_module(module: nn.Module) -> nn.Module:
        if id(module) not in copies:
            twin = copies[id(module)] = object.__new__(type(module))
            state = {
                key: copy.copy(value) if isinstance(value, dict | list | set) else value
                for key, value in vars(module).items()
            }
            vars(twin).update(state)
            vars(twin)["_modules"] = {name: child and copy_module(child) for name, child in module._modules.items()}
        return copies[id(module)]

    return copy_module(model)


class LeanLinear(Linear):
    """PEFT's linear layer, whose forward pass with one plain adapter is leaner. All else is PEFT's."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the frozen layer's output [..., out] on `x` [..., in] with the adapter's part added."""
        name: Any = self.active_adapters[0] if len(self.active_adapters) == 1 else None
        is_plain = name in self.lora_A and name not in self.lora_variant and not self.lora_bias[name]
        if args or kwargs or self.disable_adapters or self.merged or not is_plain:
            return super().forward(x, *args, **kwargs)
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and type(self.base_layer) is nn.Linear:
            return self._forward_in_bf16(x, name)
        result = self.base_layer(x)
        # The products are in the base's precision, the weights and their gradients in fp32.
        a: Any = self.lora_A[name].weight.to(x.dtype)
        b: Any = self.lora_B[name].weight.to(x.dtype)
        scaling, dropout = self.scaling[name], self.lora_dropout[name]
        x = x.flatten(0, -2)
        if self.training and isinstance(dropout, nn.Dropout):
            mask, probability = keep_mask(x, dropout.p)
            x, scaling = x * mask, scaling / probability
        return torch.addmm(result.flatten(0, -2), x @ a.T, b.T, alpha=scaling).view(result.shape)

    def _forward_in_bf16(self, x: Tensor, name: str) -> Tensor:
        a: Any = self.lora_A[name].weight
        b: Any = self.lora_B[name].weight
        plain, scaling, dropout, keep = self.base_layer, self.scaling[name], self.lora_dropout[name], None
        if self.training and isinstance(dropout, nn.Dropout):
            keep, probability = keep_bits(x.flatten(0, -2), dropout.p)
            scaling /= probability
        result = _Adapted.apply(x.flatten(0, -2), plain.weight, plain.bias, a, b, scaling, keep)
        return result.view(*x.shape[:-1], -1)


class _Adapted(torch.autograd.Function):
    """A frozen linear layer and its adapter: the function of `LeanLinear`, in bf16, in fewer passes over memory."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
        keep: Tensor | None,
    ) -> Tensor:
        a, b = a.to(x.dtype), b.to(x.dtype)
        kept = x if keep is None else _masked(x, keep)
        inside = kept @ a.T
        ctx.save_for_backward(kept, inside, weight, a, b, keep)
        ctx.scaling = scaling
        return linear(x, weight, bias).addmm_(inside, b.T, alpha=scaling)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        kept, inside, weight, a, b, keep = ctx.saved_tensors
        (gradient,) = gradients
        d_inside = (gradient @ b).mul_(ctx.scaling)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_kept = d_inside @ a
            d_x = (gradient @ weight).add_(d_kept if keep is None else _masked(d_kept, keep))
        d_b = (inside.T @ gradient).T.float().mul_(ctx.scaling)
        return d_x, None, None, (d_inside.T @ kept).float(), d_b, None, None


def _masked(x: Tensor, keep: Tensor) -> Tensor:
    """Return `x` in bf16 where `keep` is 1, and 0 elsewhere, by its bits: integers are not converted to fp32."""
    return (x.view(torch.int16) * keep).view(x.dtype)


def keep_bits(like: Tensor, p: float) -> tuple[Tensor, float]:
    """Draw a mask as `keep_mask` does, in int16 and on a CPU.

    A generator of numpy's, seeded by torch's, takes a fifth of the time.
    """
    dropped = round(p * 2**BITS)
    seed = int(torch.empty((), dtype=torch.int64).random_(generator=_generator.get()))
    raw = np.random.SFC64(seed).random_raw(-(-like.numel() * BITS // 64)).view(np.int16)
    bits = torch.from_numpy(raw)[: like.numel()].view(like.shape)
    return bits.ge_(dropped - 2 ** (BITS - 1)), 1 - dropped / 2**BITS


def keep_mask(like: Tensor, p: float) -> tuple[Tensor, float]:
    """Draw a mask in `like`'s shape and type, 1 where an element stays; return it and the probability of staying."""
    dropped = round(p * 2**BITS)
    size = like.numel()
    draws = torch.empty(-(-size * BITS // 64), dtype=torch.int64, device=like.device)
    # An accelerator has its own generator, which `learning.gradients` seeds for each pass.
    draws.random_(-(2**63), None, generator=_generator.get() if like.device.type == "cpu" else None)
    bits = draws.view(torch.int16)[:size].view(like.shape)
    # Bits are signed; writing straight into `like`'s type takes half as long as a comparison and a cast.
    mask = torch.ge(bits, dropped - 2 ** (BITS - 1), out=torch.empty_like(like, requires_grad=False))
    return mask, 1 - dropped / 2**BITS


@contextmanager
def draws(seed: int) -> Iterator[None]:
    """Draw this thread's masks of lean layers from a separate generator, independent of other threads."""
    before = _generator.set(torch.Generator().manual_seed(seed))
    try:
        yield
    finally:
        _generator.reset(before)


def draws_apart(model: nn.Module) -> bool:
    """Tell whether lean layers alone are random in a model's forward pass.

    If so, passes in separate threads draw the same masks as passes one after the other.
    """
    layers: list[Any] = list(model.modules())
    adapted = [layer for layer in layers if isinstance(layer, Embedding | LeanLinear)]
    lean = {one for layer in adapted for one in layer.lora_dropout.values()}  # PEFT's embeddings do not apply theirs
    other = any(isinstance(layer, nn.Dropout) and layer.p and layer not in lean for layer in layers)
    return not other and not any(getattr(layer, "attention_dropout", 0) for layer in layers)


def make_lean(model: nn.Module, *, everywhere: bool = False) -> None:
    """Make the model's linear LoRA layers on the CPU lean; `everywhere`: on an accelerator too.

    Which kind is faster there has not been measured (`python -m tests.bench gpu` does).
    """
    for module in model.modules():
        if type(module) is Linear and (everywhere or module.weight.device.type == "cpu"):
            module.__class__ = LeanLinear


@torch.no_grad()
def merged(model: Any) -> Any:
    """Return the transformers model in evaluation mode with its current adapter folded in.

    This halves the time of a forward pass on small models. Adapted matrices are copies, all else is shared with
    `model`, which stays as it is. A model without adapters, on an accelerator (where memory is short and LoRA cheap),
    or with adapters of other kinds is returned unchanged.
    """
    if not isinstance(model, peft.PeftModel) or model.device.type != "cpu":
        return model
    result = view(model.get_base_model())
    for name, module in list(result.named_modules()):
        if isinstance(module, Linear | Embedding) and module.active_adapters == ["default"]:
            plain: Any = module.base_layer
            folded = plain.weight + module.get_delta_weight("default")  # in fp32, as the adapter is
            plain.weight = nn.Parameter(folded.to(plain.weight.dtype), requires_grad=False)
            result.set_submodule(name, plain)
        elif isinstance(module, BaseTunerLayer):
            return model
    return result.eval()
