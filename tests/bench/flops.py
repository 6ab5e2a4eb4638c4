"""Floating-point operations from formulas, so that a noisy machine does not decide.

Forward pass of a decoder over T tokens: 2 N T + A T^2, with N the weights of its layers and A = 2 layers width (causal
attention computes half of the square). Training LoRA adapters costs 2 forward passes: the frozen matrices get no
gradient of their own. The head costs 2 V H wherever logits are computed. The vision tower over an image of P patches
costs 2 Nv P + 4 Lv dv P^2, and is frozen: never differentiated. The connector sees every patch and is differentiated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from respect_core.model.base import inner


@dataclass(frozen=True)
class Shape:
    """What the formulas need to know of an Idefics2 or a text model; the vision part is 0 for the latter."""

    text: int  # weights of the layers
    attention: int  # 2 layers width
    head: int  # vocabulary x width
    vision: int = 0  # weights of the tower
    vision_attention: int = 0  # 4 layers width
    connector: int = 0  # of the connector: weights that see every patch
    resampler: int = 0  # weights that see its latents alone
    latents: int = 0
    patches: int = 0  # an image

    @classmethod
    def of(cls, model: Any) -> Shape:
        """Of a transformers model without adapters (they add about a hundredth)."""
        config = model.config.get_text_config()
        decoder = model.model
        parts: dict[str, int] = {}
        if hasattr(decoder, "vision_model"):
            vision = model.config.vision_config
            attention = [layer.self_attn for layer in decoder.connector.perceiver_resampler.layers]
            keys_and_values = sum(_weights(each.k_proj) + _weights(each.v_proj) for each in attention)
            seen = _weights(decoder.connector.modality_projection) + keys_and_values
            parts = {
                "vision": _weights(decoder.vision_model.encoder),
                "vision_attention": 4 * vision.num_hidden_layers * vision.hidden_size,
                "connector": seen,
                "resampler": _weights(decoder.connector.perceiver_resampler) - keys_and_values,
                "latents": model.config.perceiver_config.resampler_n_latents,
                "patches": (vision.image_size // vision.patch_size) ** 2,
            }
            decoder = decoder.text_model
        return cls(
            text=_weights(decoder.layers),
            attention=2 * config.num_hidden_layers * config.hidden_size,
            head=config.vocab_size * config.hidden_size,
            **parts,
        )

    def forward(self, lengths: Iterable[int], *, logits: int, connected: int = 0, seen: int = 0) -> float:
        """Of one pass.

        Args:
            lengths: tokens of each sequence, padding included: the machine computes it.
            logits: positions at which the head runs.
            connected: images that go through the connector.
            seen: images that go through the vision tower.
        """
        text = sum(2 * self.text * T + self.attention * T**2 for T in lengths)
        return text + 2 * self.head * logits + connected * self.connect() + seen * self.see()

    def training(self, lengths: Iterable[int], *, logits: int, connected: int = 0, seen: int = 0) -> float:
        """Of one pass and its gradient with respect to adapters."""
        return 2 * self.forward(lengths, logits=logits, connected=connected) + seen * self.see()

    def connect(self, patches: int | None = None) -> float:
        """The connector on one image, of the full number of patches by default."""
        return 2 * (self.connector * (patches or self.patches) + self.resampler * self.latents)

    def see(self, patches: int | None = None) -> float:
        """The vision tower on one image, of the full number of patches by default."""
        patches = patches or self.patches
        return 2 * self.vision * patches + self.vision_attention * patches**2


@dataclass
class Counts:
    """What went through a model: tokens with their padding, and FLOPs by the formulas above."""

    tokens: int = 0
    flops: float = 0.0


@contextmanager
def counting(model: Any) -> Iterator[Counts]:
    """Counts the passes of an Idefics2 and of views made of it while inside; a pass with gradients counts twice.

    A token attends to kept tokens and those before it.
    """
    whole, counts = inner(model), Counts()
    shape, side = Shape.of(whole), whole.config.vision_config.patch_size

    def times() -> int:
        return 2 if torch.is_grad_enabled() else 1

    def text(_: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        rows, tokens = options["inputs_embeds"].shape[:2]
        past = options.get("past_key_values")
        kept = past.get_seq_length() if past is not None else 0
        counts.tokens += rows * tokens
        flops = rows * (2 * shape.text * tokens + shape.attention * (tokens**2 + 2 * tokens * kept))
        counts.flops += times() * flops

    def head(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        counts.flops += times() * 2 * shape.head * arguments[0].shape[:-1].numel()

    def connector(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        counts.flops += times() * arguments[0].shape[0] * shape.connect(arguments[0].shape[1])

    def tower(_: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        images, _, height, width = options["pixel_values"].shape
        counts.flops += images * shape.see(height // side * (width // side))

    hooks = [
        whole.model.text_model.register_forward_pre_hook(text, with_kwargs=True),
        whole.get_output_embeddings().register_forward_pre_hook(head),
        whole.model.connector.register_forward_pre_hook(connector),
        whole.model.vision_model.register_forward_pre_hook(tower, with_kwargs=True),
    ]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def _weights(module: nn.Module) -> int:
    """Of matrices alone: norms and biases cost next to nothing."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.dim() > 1)
