"""The same two layers on the device and, in double precision, on the CPU: log-probabilities and LoRA's gradients.

Distances are norms of differences over norms. The bounds: fp32 products round at 1e-7 each, and norms and rotary
embeddings are in fp32 on both sides; bf16 operands, rounded at 4e-3 each, leave 1e-3 to 1e-2 after one product, more in
gradients, which pass through all layers twice. With fp32 a fault of the code would show that bf16's rounding hides.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from respect_core.learning import batch_loss
from respect_core.learning.checkpoints import trainable
from respect_core.model.base import Base, attach_lora
from respect_core.model.chat import chat
from respect_core.model.packing import collate, score
from respect_core.model.vision import VisionFeatures
from respect_core.training_data.sampling import Game
from respect_core.variants import Objective
from tests.bench.gpu import games, phases, shape
from tests.bench.gpu.measure import Bench, OnDevice

TOLERANCES = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (2e-2, 1e-1)}
"""For log-probabilities, and for gradients."""


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of all action tokens, and the gradient of their mean; in double precision on the CPU."""

    logp: Tensor
    gradient: Tensor


def agree(bench: Bench, whole: shape.Shape, scale: phases.Scale, seconds: float) -> Iterator[OnDevice]:
    """KTO's batches, which have masks and positions of their own, and FFT's, which have none.

    Raises:
        AssertionError: further apart than TOLERANCES.
    """
    exact, _ = shape.build(whole.cut(), bench.device, torch.bfloat16)
    single = _recast(exact, bench.device, torch.float32)
    double = _recast(exact, torch.device("cpu"), torch.float64)
    apart: list[str] = []
    with bench.measuring(exact.model) as work:
        for objective in (Objective.FFT, Objective.KTO):
            reference = _scores(double, whole, objective, scale)
            for base in (single, exact):
                found, dtype = _scores(base, whole, objective, scale), base.model.dtype
                for name, bound in zip(("logp", "gradient"), TOLERANCES[dtype], strict=True):
                    distance = _distance(getattr(found, name), getattr(reference, name))
                    said = f"{objective} {str(dtype).removeprefix('torch.')} {name} {distance:.1e}"
                    assert distance < bound, f"{said}, and may be {bound:g}"
                    apart.append(said)
            work.turns += scale.turns
    work.counts.flops = work.counts.tokens = 0  # most of the time is the CPU's
    yield bench.record("gpu-agreement", exact.name, work, equality="; ".join(apart), note="against fp64 on the CPU")


def _scores(base: Base, whole: shape.Shape, objective: Objective, scale: phases.Scale) -> Scores:
    """Of one game, from adapters far from zero, without dropout."""
    features = VisionFeatures(base, games.Pictures(whole.side))
    config = phases.configuration(objective, scale)
    (example,) = games.examples(1, scale.turns)
    game = Game(example.interaction, tuple(label or None for label in example.labels), tuple(range(10)))
    row = batch_loss.encode_game(game, base, config)
    model: Any = attach_lora(base, phases.LORA, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if "lora_B.default" in name:
                weight.copy_(0.03 * torch.randn(weight.shape, generator=generator))
    scores = score(model, collate([row], chat(base.processor).pad_id), features)
    logp = scores.logp[scores.mask]
    gradients = torch.autograd.grad(logp.mean(), list(trainable(model).values()))
    together = torch.cat([gradient.flatten().double().cpu() for gradient in gradients])
    return Scores(logp.detach().double().cpu(), together)


def _recast(base: Base, device: torch.device, dtype: torch.dtype) -> Base:
    """The same weights elsewhere, in higher precision; buffers, such as rotary frequencies, keep theirs."""
    model = copy.deepcopy(base.model)
    for weight in model.parameters():
        weight.data = weight.data.to(device, dtype)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)
    model.set_attn_implementation("sdpa")  # `freeze` may have chosen another for bf16
    return replace(base, model=model)


def _distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
