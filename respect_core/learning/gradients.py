"""Compute the gradient of a batch in passes that fit into the device's memory; on a CPU, one pass per core.

Deviation from the paper: if a pass of `micro_batch_interactions` does not fit into memory, passes take half as many
games, or a quarter, down to one. The gradient is the same up to rounding and dropout, which is drawn differently. KTO's
z0 is the whole batch's, which costs a pass without gradient on a device that cannot hold all parts at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import Any, ClassVar

import torch
from torch import Tensor

from respect_core.errors import ExpectedError
from respect_core.learning import objectives
from respect_core.learning.batch_loss import (
    PARTS,
    References,
    encode_game,
    length,
    longest_first,
    reference_point,
    references,
    turn_losses,
)
from respect_core.learning.checkpoints import generators, set_generators, trainable
from respect_core.learning.distributed import ALONE, Processes
from respect_core.model import lora, threads
from respect_core.model.base import Base
from respect_core.model.chat import chat
from respect_core.model.memory import fitting
from respect_core.model.packing import Encoded, SpanScores, collate, score, within_budget
from respect_core.model.vision import VisionFeatures
from respect_core.training_data.sampling import Batch, Example, Game
from respect_core.variants import Objective, TrainingConfig


class TrainingError(ExpectedError, ValueError):
    """Raised when training cannot continue. The message names the step, the fault and the interactions."""


def find_references(
    base: Base, model: Any, examples: Sequence[Example], config: TrainingConfig, features: VisionFeatures
) -> tuple[References, int]:
    """Return KTO's references (none for other objectives), and how many games fit into a pass."""

    def attempt(size: int) -> References:
        smaller = replace(config, micro_batch_interactions=size)
        return references(model, examples, base, features, smaller)

    if config.objective is not Objective.KTO:
        return {}, config.micro_batch_interactions
    return fitting(attempt, config.micro_batch_interactions, "games")


def passes(
    rows: Sequence[Encoded], size: int, device: torch.device, processes: int | None = 1
) -> list[Sequence[Encoded]]:
    """Divide the rows of a batch into passes.

    Args:
        size: most interactions in one pass.
        processes: number that share the passes; None if passes do not run in parallel.
    """

    def most(rows: int) -> int:
        return size if processes is None else threads.balanced_batch_size(rows, size, device, processes)

    return list(within_budget(longest_first(rows), most, length))


@dataclass(frozen=True)
class Gradients:
    """Gradients of batches under a model and its objective.

    Args:
        reference: KTO's, from `find_references`; empty for others.
        processes: the processes that share the passes of a batch.
    """

    base: Base
    model: Any
    config: TrainingConfig
    features: VisionFeatures
    reference: References
    processes: Processes = ALONE

    def accumulate(self, batch: Batch, step: int, size: int) -> tuple[dict[str, Any], int]:
        """Accumulate a batch's clipped gradient in the `.grad` of the model's parameters.

        Args:
            step: its number, for errors.
            size: most interactions in one pass; halved if the device runs out of memory.

        Returns:
            The batch's figures for a StepRecord, and the size that fits.

        Raises:
            TrainingError: loss or gradient is not finite.
            torch.OutOfMemoryError: not even one interaction fits.
        """
        states = generators(self.base.device)

        def attempt(size: int) -> dict[str, Any]:
            set_generators(states, self.base.device)
            return self._accumulate_with(batch, step, size)

        return fitting(attempt, size, "games")

    def _accumulate_with(self, batch: Batch, step: int, size: int) -> dict[str, Any]:
        """Accumulate the gradient in passes of this size."""
        weights = trainable(self.model)
        games = {game.interaction.interaction_id: game for game in batch.games}
        rows = [encode_game(game, self.base, self.config) for game in batch.games]
        self.features.ready(self.model, [image for row in rows for image in row.images])
        self.model.zero_grad()

        def share() -> list[float]:
            """Accumulate the gradients of this process's passes; return the sums of their figures."""
            sums = [0.0] * len(_Pass.FIGURES)
            # In the order of the passes, so that the sum does not depend on which of them finishes first.
            for result in self._passes(rows, games, batch.turns, step, size):
                sums = [total + figure for total, figure in zip(sums, result.figures, strict=True)]
                for weight, gradient in zip(weights.values(), result.gradients, strict=True):
                    if gradient is not None:
                        weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
            return sums

        sums = self.processes.all_reduce_sum(list(weights.values()), self.processes.raise_oom_together(share))
        figures = dict(zip(_Pass.FIGURES, sums, strict=True))
        norm = float(torch.nn.utils.clip_grad_norm_(weights.values(), self.config.max_grad_norm))
        if not math.isfinite(norm):
            raise TrainingError(f"step {step}: the gradient is {norm} on {', '.join(games)}; lower the learning rate")
        counts = {"positives": batch.count(1), "negatives": batch.count(-1)}
        tokens = sum(length(row) for row in rows)
        means = {name: figures[name] / n if (n := figures[f"{name}_turns"]) else None for name in (*PARTS, "z0")}
        totals = {"loss": figures["loss"], "grad_norm": norm, "tokens": tokens, "padded_tokens": int(figures["tokens"])}
        return totals | counts | means

    def _passes(
        self, rows: Sequence[Encoded], games: Mapping[str, Game], turns: int, step: int, size: int
    ) -> Iterator[_Pass]:
        """Yield the results of this process's passes of a batch, in order."""
        weights, kto = list(trainable(self.model).values()), self.config.objective is Objective.KTO
        device, together = self.base.device, lora.draws_apart(self.model)
        processes = self.processes.count if together else None

        def run(job: tuple[_Part, SpanScores | None, Tensor | None]) -> _Pass:
            part, scores, z0 = job
            with torch.enable_grad():
                scores = self._score(part) if scores is None else scores
                if kto and z0 is None:
                    z0 = reference_point([scores], self.config, self.reference)
                free_text = self.base.scenario.free_text
                losses = turn_losses(scores, games, self.config, self.reference, z0, free_text=free_text)
                loss = objectives.batch_loss(losses.loss, turns=turns)
                value = _finite(loss, part.rows, step)
                gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            has_part = ~losses.parts.isnan()
            sums, counts = losses.parts.nan_to_num().sum(0).tolist(), has_part.sum(0).tolist()
            z0_sum, z0_count = (0.0, 0.0) if z0 is None else (z0.item(), 1.0)
            return _Pass(gradients, (value, part.tokens, *sums, z0_sum, *counts, z0_count))

        parts = [_Part(group, int(torch.randint(2**62, ()))) for group in passes(rows, size, device, processes)]
        scores_by_part: Sequence[SpanScores | None] = [None] * len(parts)
        z0 = None
        if kto and len(parts) > 1:
            # As many graphs as there are passes in parallel are in memory anyway.
            at_once = together and len(parts) <= threads.parallel_passes(device)
            score_part = partial(self._score, gradient=at_once)
            scores_for_z0 = list(threads.map_parallel(score_part, parts, device, together=together))
            z0 = reference_point(scores_for_z0, self.config, self.reference)
            scores_by_part = scores_for_z0 if at_once else scores_by_part
        jobs = list(self.processes.shard(zip(parts, scores_by_part, repeat(z0), strict=False)))
        yield from threads.map_parallel(run, jobs, device, together=together)

    def _score(self, part: _Part, *, gradient: bool = True) -> SpanScores:
        """Score a part, with the same dropout each time if lean layers or an accelerator draw all of it."""
        options = {"with_entropy": self.config.entropy_weight != 0, "with_mean": self.config.label_smoothing != 0}
        packed = collate(part.rows, chat(self.base.processor).pad_id)
        if (device := self.base.device).type != "cpu":
            torch.get_device_module(device).manual_seed(part.seed)  # independent of this process's earlier passes
        with torch.set_grad_enabled(gradient), lora.draws(part.seed):
            return score(self.model, packed, self.features, **options)


@dataclass(frozen=True)
class _Part:
    """Games that go through the model in one pass."""

    rows: Sequence[Encoded]
    seed: int  # of dropout

    @property
    def tokens(self) -> int:
        """Number of tokens with padding."""
        return len(self.rows) * max(length(row) for row in self.rows)


@dataclass(frozen=True)
class _Pass:
    """A pass's contribution to its batch."""

    FIGURES: ClassVar = ("loss", "tokens", *PARTS, "z0", *(f"{name}_turns" for name in (*PARTS, "z0")))

    gradients: Sequence[Tensor | None]  # of the trainable weights, in their order
    figures: Sequence[float]  # in the order of FIGURES: sums over the pass's turns, and how many turns have each part


def _finite(loss: Tensor, rows: Sequence[Encoded], step: int) -> float:
    value = loss.item()
    if not math.isfinite(value):
        names = ", ".join(row.interaction_id for row in rows)
        raise TrainingError(f"step {step}: the loss is {value} on {names}; lower the learning rate or leave them out")
    return value
