"""The gradient of a batch, in passes that the device has the memory for; on a CPU, a pass on each core.

Deviation from the paper: where the memory does not do for a pass of `micro_batch_interactions`, there are more of half
as many games, or a quarter, down to one. The gradient is the same up to rounding, but for other draws of dropout. KTO's
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
    """Training cannot go on. The message names the step, what was wrong and the interactions it happened on."""


def find_references(
    base: Base, model: Any, examples: Sequence[Example], config: TrainingConfig, features: VisionFeatures
) -> tuple[References, int]:
    """KTO's references (none for other objectives), and how many games fit into a pass."""

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
        processes: that share the passes; None where passes do not run in parallel.
    """

    def most(rows: int) -> int:
        return size if processes is None else threads.balanced_batch_size(rows, size, device, processes)

    return list(within_budget(longest_first(rows), most, length))


@dataclass(frozen=True)
class Gradients:
    """Gradients of batches under a model and its objective.

    Args:
        reference: KTO's, from `find_references`; empty for others.
        processes: those that share the passes of a batch.
    """

    base: Base
    model: Any
    config: TrainingConfig
    features: VisionFeatures
    reference: References
    processes: Processes = ALONE

    def leave(self, batch: Batch, step: int, size: int) -> tuple[dict[str, Any], int]:
        """Leave the clipped gradient of a batch in the model's parameters.

        Args:
            step: its number, for errors.
            size: most interactions in one pass; halved where the device has not the memory for them.

        Returns:
            What a StepRecord says of the batch, and the size that fitted.

        Raises:
            TrainingError: loss or gradient is not finite.
            torch.OutOfMemoryError: not even one interaction fits.
        """
        states = generators(self.base.device)

        def attempt(size: int) -> dict[str, Any]:
            set_generators(states, self.base.device)
            return self._accumulate(batch, step, size)

        return fitting(attempt, size, "games")

    def _accumulate(self, batch: Batch, step: int, size: int) -> dict[str, Any]:
        weights = trainable(self.model)
        games = {game.interaction.interaction_id: game for game in batch.games}
        rows = [encode_game(game, self.base, self.config) for game in batch.games]
        self.features.ready(self.model, [image for row in rows for image in row.images])
        self.model.zero_grad()

        def share() -> list[float]:
            """Leave the gradients of this process's passes in the weights; return the sums of their figures."""
            sums = [0.0] * len(_Pass.FIGURES)
            # Added up in the order of the passes: the sum does not depend on which of them is done first.
            for done in self._passes(rows, games, batch.turns, step, size):
                sums = [before + figure for before, figure in zip(sums, done.figures, strict=True)]
                for weight, gradient in zip(weights.values(), done.gradients, strict=True):
                    if gradient is not None:
                        weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
            return sums

        sums = self.processes.add_up(list(weights.values()), self.processes.fitting(share))
        figures = dict(zip(_Pass.FIGURES, sums, strict=True))
        norm = float(torch.nn.utils.clip_grad_norm_(weights.values(), self.config.max_grad_norm))
        if not math.isfinite(norm):
            raise TrainingError(f"step {step}: the gradient is {norm} on {', '.join(games)}; lower the learning rate")
        counts = {"positives": batch.count(1), "negatives": batch.count(-1)}
        tokens = sum(length(row) for row in rows)
        means = {name: figures[name] / n if (n := figures[f"{name}_turns"]) else None for name in (*PARTS, "z0")}
        told = {"loss": figures["loss"], "grad_norm": norm, "tokens": tokens, "padded_tokens": int(figures["tokens"])}
        return told | counts | means

    def _passes(
        self, rows: Sequence[Encoded], games: Mapping[str, Game], turns: int, step: int, size: int
    ) -> Iterator[_Pass]:
        """This process's passes of a batch."""
        weights, kto = list(trainable(self.model).values()), self.config.objective is Objective.KTO
        device, together = self.base.device, lora.draws_apart(self.model)
        processes = self.processes.count if together else None

        def run(job: tuple[_Part, SpanScores | None, Tensor | None]) -> _Pass:
            part, scores, z0 = job
            with torch.enable_grad():
                scores = self._score(part) if scores is None else scores
                if kto and z0 is None:
                    z0 = reference_point([scores], self.config, self.reference)
                losses = turn_losses(scores, games, self.config, self.reference, z0)
                loss = objectives.batch_loss(losses.loss, turns=turns)
                value = _finite(loss, part.rows, step)
                gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            counted = ~losses.parts.isnan()
            point = [0.0, 0.0] if z0 is None else [z0.item(), 1.0]
            parts = [losses.parts.nan_to_num().sum(0).tolist(), counted.sum(0).tolist()]
            return _Pass(gradients, (value, part.tokens, *parts[0], point[0], *parts[1], point[1]))

        parts = [_Part(some, int(torch.randint(2**62, ()))) for some in passes(rows, size, device, processes)]
        scored: Sequence[SpanScores | None] = [None] * len(parts)
        z0 = None
        if kto and len(parts) > 1:
            at_once = together and len(parts) <= threads.parallel_passes(device)  # so many graphs are in memory anyway
            score_part = partial(self._score, gradient=at_once)
            alternatives = list(threads.map_parallel(score_part, parts, device, together=together))
            z0 = reference_point(alternatives, self.config, self.reference)
            scored = alternatives if at_once else scored
        mine = list(self.processes.deal(zip(parts, scored, repeat(z0), strict=False)))
        yield from threads.map_parallel(run, mine, device, together=together)

    def _score(self, part: _Part, *, gradient: bool = True) -> SpanScores:
        """Scores of a part; the same draws of dropout each time, if all of it is lean layers' or an accelerator's."""
        options = {"with_entropy": self.config.entropy_weight != 0, "with_mean": self.config.label_smoothing != 0}
        packed = collate(part.rows, chat(self.base.processor).pad_id)
        if (device := self.base.device).type != "cpu":
            torch.get_device_module(device).manual_seed(part.seed)  # whatever this process did before
        with torch.set_grad_enabled(gradient), lora.draws(part.seed):
            return score(self.model, packed, self.features, **options)


@dataclass(frozen=True)
class _Part:
    """Games that go through the model in one pass."""

    rows: Sequence[Encoded]
    seed: int  # of dropout

    @property
    def tokens(self) -> int:
        """With padding."""
        return len(self.rows) * max(length(row) for row in self.rows)


@dataclass(frozen=True)
class _Pass:
    """What a pass adds to its batch."""

    FIGURES: ClassVar = ("loss", "tokens", *PARTS, "z0", *(f"{name}_turns" for name in (*PARTS, "z0")))

    gradients: Sequence[Tensor | None]  # of the trainable weights, in their order
    figures: Sequence[float]  # sums over the pass's turns, as FIGURES names them, and how many turns have each part


def _finite(loss: Tensor, rows: Sequence[Encoded], step: int) -> float:
    value = loss.item()
    if not math.isfinite(value):
        names = ", ".join(row.interaction_id for row in rows)
        raise TrainingError(f"step {step}: the loss is {value} on {names}; lower the learning rate or leave them out")
    return value
