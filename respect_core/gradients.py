"""The gradient of a batch, in passes that the device has the memory for.

Deviation from the paper: where the memory does not do for a micro-batch, it goes through in parts of half as many
games, or a quarter, down to one. The gradient is the same up to rounding, but for other draws of dropout; KTO's z0
stays the whole micro-batch's, which then costs a pass without gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from respect_core import objectives
from respect_core.base import Base
from respect_core.chat import chat
from respect_core.checkpoints import generators, set_generators, trainable
from respect_core.features import VisionFeatures
from respect_core.losses import (
    References,
    encode_game,
    length,
    micro_batches,
    reference_point,
    references,
    turn_losses,
)
from respect_core.memory import fitting
from respect_core.packing import Encoded, collate, score
from respect_core.sampling import Batch, Example
from respect_core.variants import Objective, TrainingConfig


class TrainingError(ValueError):
    """Training cannot go on. The message names the step, what was wrong and the interactions it happened on."""


def find_references(
    base: Base, model: Any, examples: Sequence[Example], config: TrainingConfig, features: VisionFeatures
) -> tuple[References, int]:
    """KTO's references (none for other objectives), and how many games fit into a pass."""

    def attempt(size: int) -> References:
        smaller = replace(config, micro_batch_interactions=size)
        return references(model, examples, base.processor, features, smaller)

    if config.objective is not Objective.KTO:
        return {}, config.micro_batch_interactions
    return fitting(attempt, config.micro_batch_interactions, "games")


def leave_gradient(
    base: Base,
    model: Any,
    batch: Batch,
    config: TrainingConfig,
    features: VisionFeatures,
    reference: References,
    step: int,
    size: int,
) -> tuple[dict[str, Any], int]:
    """Leave the clipped gradient of a batch in the model's parameters.

    Args:
        size: most interactions in one pass; halved where the device has not the memory for them.

    Returns:
        What a StepRecord says of the batch, and the size that fitted.
    """
    states = generators(base.device)

    def attempt(size: int) -> dict[str, Any]:
        model.zero_grad()
        set_generators(states, base.device)
        return _accumulate(base, model, batch, config, features, reference, step, size)

    return fitting(attempt, size, "games")


def _accumulate(
    base: Base,
    model: Any,
    batch: Batch,
    config: TrainingConfig,
    features: VisionFeatures,
    reference: References,
    step: int,
    size: int,
) -> dict[str, Any]:
    games = {game.interaction.interaction_id: game for game in batch.games}
    rows = [encode_game(game, base.processor, config) for game in batch.games]
    options = {"with_entropy": config.entropy_weight != 0, "with_mean": config.label_smoothing != 0}
    pad = chat(base.processor).pad_id
    total, tokens, padded = 0.0, 0, 0
    for micro in micro_batches(rows, config.micro_batch_interactions):
        parts = [micro[start : start + size] for start in range(0, len(micro), size)]
        z0 = None
        if config.objective is Objective.KTO and len(parts) > 1:
            with torch.no_grad():  # the point is that of the whole micro-batch, however small the passes are
                scored = [score(model, collate(part, pad), features) for part in parts]
                z0 = reference_point(scored, config, reference)
        for part in parts:
            packed = collate(part, pad)
            scores = score(model, packed, features, **options)
            loss = objectives.batch_loss(turn_losses(scores, games, config, reference, z0), turns=batch.turns)
            total += _finite(loss, part, step)
            loss.backward()
            tokens += sum(length(row) for row in part)
            padded += packed.input_ids.numel()
    norm = float(torch.nn.utils.clip_grad_norm_(trainable(model).values(), config.max_grad_norm))
    if not math.isfinite(norm):
        raise TrainingError(f"step {step}: the gradient is {norm} on {', '.join(games)}; lower the learning rate")
    counts = {"positives": batch.count(1), "negatives": batch.count(-1)}
    return {"loss": total, "grad_norm": norm, "tokens": tokens, "padded_tokens": padded} | counts


def _finite(loss: Tensor, rows: Sequence[Encoded], step: int) -> float:
    value = loss.item()
    if not math.isfinite(value):
        names = ", ".join(row.interaction_id for row in rows)
        raise TrainingError(f"step {step}: the loss is {value} on {names}; lower the learning rate or leave them out")
    return value
