"""The trainer: one variant, one seed, from training set to adapters and their validation figures.

Deviations from the paper, and why:
1. An optimizer step takes whole games with about `batch_turns` kept turns, not exactly 64 turns drawn singly: one
   pass over a game gives all its turns.
2. The optimizer has 32-bit states (`variants`, deviation 1), and weight decay covers all adapter weights; there are
   no biases or norms among them.
3. Every checkpoint is validated and kept; the choice among seeds and steps is made elsewhere.

The same seed gives the same adapter bit for bit on one machine: everything random comes from the seed, and the global
generators are left as they were found.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from respect_core import objectives
from respect_core.base import Base, attach_lora, load_adapter, save_adapter
from respect_core.chat import chat
from respect_core.features import VisionFeatures
from respect_core.losses import References, encode_game, length, micro_batches, references, turn_losses
from respect_core.packing import collate, score
from respect_core.sampling import Batch, Example, plan_epoch, require_probability
from respect_core.variants import LoraConfig, Objective, TrainingConfig

Progress = Callable[[int, int, float], None]
"""Called after each step with step (from 1), steps in all, and loss."""
Validate = Callable[[Any], Mapping[str, float]]
"""Figures of a model on a validation set, `exact_match` among them; the model is in evaluation mode."""

HISTORY = "history.jsonl"


class TrainingError(RuntimeError):
    """Training cannot go on. The message names the step, what was wrong and the interactions it happened on."""


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step."""

    step: int  # from 1
    epoch: int  # from 0
    loss: float  # mean over the batch's turns
    learning_rate: float
    grad_norm: float  # before clipping
    positives: int
    negatives: int
    tokens: int  # real ones, of all forward passes
    padded_tokens: int  # with padding


@dataclass(frozen=True)
class Checkpoint:
    """An adapter on the way, with its validation figures; none where there was nothing to validate on."""

    step: int
    epoch: int
    adapter: Path
    validation: Mapping[str, float]


@dataclass(frozen=True)
class TrainingResult:
    """What a run did."""

    history: tuple[StepRecord, ...]
    checkpoints: tuple[Checkpoint, ...]
    seconds: float  # of optimization, without references, validation and checkpoints

    @property
    def turns(self) -> int:
        """Turns with a loss, over all steps."""
        return sum(record.positives + record.negatives for record in self.history)

    @property
    def tokens(self) -> int:
        return sum(record.tokens for record in self.history)

    @property
    def padding(self) -> float:
        """Share of the tokens passed through the model that was padding."""
        return 1 - self.tokens / sum(record.padded_tokens for record in self.history)

    @property
    def turns_per_second(self) -> float:
        return self.turns / self.seconds


def train(
    base: Base,
    examples: Sequence[Example],
    validate: Validate | None,
    config: TrainingConfig,
    lora: LoraConfig,
    seed: int,
    out_dir: Path,
    *,
    features: VisionFeatures,
    init_adapter: Path | None = None,
    progress: Progress | None = None,
) -> TrainingResult:
    """Train an adapter; its checkpoints go to `out_dir/step-000030/`, a record of each step to `history.jsonl`.

    Args:
        base: the frozen model; left as it is.
        examples: from `sampling.examples`.
        validate: called at each checkpoint.
        lora: shape and placement of a new adapter; one that is continued keeps its own.
        seed: of adapter, dropout, batches and image orders.
        features: of the same base.
        init_adapter: where training goes on from, if `config` says that it does (in the paper KTO alone, section 5):
            the previous round's adapter, or the seed policy's.

    Raises:
        ValueError: nothing to learn from, or `init_adapter` where the configuration starts from scratch, or none
            where it goes on from one, or RL without p.
        TrainingError: loss or gradient is not finite.
    """
    if config.from_previous_adapter and init_adapter is None:
        raise ValueError(f"{config.objective} goes on from an adapter: give the previous round's, or the seed policy's")
    if init_adapter is not None and not config.from_previous_adapter:
        raise ValueError(f"{config.objective} starts from scratch here: its configuration does not take an adapter")
    require_probability(examples, config.objective)
    plan = plan_steps(examples, config, seed)
    if not plan:
        raise ValueError(f"nothing to train on: {len(examples)} games, and no positive turn in them")
    out_dir.mkdir(parents=True, exist_ok=True)
    history: list[StepRecord] = []
    checkpoints: list[Checkpoint] = []
    seconds = 0.0
    with isolated(seed, base.device), (out_dir / HISTORY).open("w") as log:

        def write(record: Mapping[str, Any]) -> None:
            log.write(json.dumps(record) + "\n")
            log.flush()

        model = load_adapter(base, init_adapter, trainable=True) if init_adapter else attach_lora(base, lora, seed=seed)
        reference: References = {}
        if config.objective is Objective.KTO:
            reference = references(model, examples, base.processor, features, config)
        optimizer = make_optimizer(model, config)
        model.train()
        for step, (epoch, batch) in enumerate(plan):
            started = time.perf_counter()
            rate = learning_rate(config, step, len(plan))
            for group in optimizer.param_groups:
                group["lr"] = rate
            figures = _accumulate(base, model, batch, config, features, reference, step + 1)
            optimizer.step()
            optimizer.zero_grad()
            seconds += time.perf_counter() - started
            history.append(StepRecord(step + 1, epoch, learning_rate=rate, **figures))
            write(asdict(history[-1]))
            if progress is not None:
                progress(step + 1, len(plan), history[-1].loss)
            if _due(plan, step, config):
                adapter = out_dir / f"step-{step + 1:06}"
                save_adapter(model, adapter)
                checkpoints.append(Checkpoint(step + 1, epoch, adapter, _validated(validate, model, base.device)))
                write({"step": step + 1, "checkpoint": adapter.name, **checkpoints[-1].validation})
    return TrainingResult(tuple(history), tuple(checkpoints), seconds)


def plan_steps(examples: Sequence[Example], config: TrainingConfig, seed: int) -> list[tuple[int, Batch]]:
    """Epoch and batch of every step: `config.epochs` epochs, or `config.max_steps` steps if those are fewer."""
    plan: list[tuple[int, Batch]] = []
    for epoch in range(config.epochs):
        plan += [(epoch, batch) for batch in plan_epoch(examples, config, seed, epoch)]
        if config.max_steps is not None and len(plan) >= config.max_steps:
            return plan[: config.max_steps]
    return plan


def _due(plan: Sequence[tuple[int, Batch]], step: int, config: TrainingConfig) -> bool:
    """Whether a checkpoint follows step `step` (from 0): at the end, and every so often or at the end of an epoch."""
    if step + 1 == len(plan):
        return True
    if config.checkpoint_every is not None:
        return (step + 1) % config.checkpoint_every == 0
    return plan[step + 1][0] != plan[step][0]


def _validated(validate: Validate | None, model: Any, device: torch.device) -> dict[str, float]:
    if validate is None:
        return {}
    with _forked(device):
        model.eval()
        figures = dict(validate(model))
        model.train()
    return figures


def _accumulate(
    base: Base,
    model: Any,
    batch: Batch,
    config: TrainingConfig,
    features: VisionFeatures,
    reference: References,
    step: int,
) -> dict[str, Any]:
    """Leave the clipped gradient of a batch in the model's parameters; what a StepRecord says of it."""
    games = {game.interaction.interaction_id: game for game in batch.games}
    rows = [encode_game(game, base.processor, config) for game in batch.games]
    total, tokens, padded = 0.0, 0, 0
    for micro in micro_batches(rows, config.micro_batch_interactions):
        packed = collate(micro, chat(base.processor).pad_id)
        scores = score(
            model,
            packed,
            features,
            with_entropy=config.entropy_weight != 0,
            with_mean=config.label_smoothing != 0,
        )
        loss = objectives.batch_loss(turn_losses(scores, games, config, reference), turns=batch.turns)
        value = loss.item()
        if not math.isfinite(value):
            names = ", ".join(row.interaction_id for row in micro)
            raise TrainingError(
                f"step {step}: the loss is {value} on {names}; lower the learning rate or leave them out"
            )
        loss.backward()
        total += value
        tokens += sum(length(row) for row in micro)
        padded += packed.input_ids.numel()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm))
    if not math.isfinite(norm):
        raise TrainingError(f"step {step}: the gradient is {norm} on {', '.join(games)}; lower the learning rate")
    counts = {"positives": batch.count(1), "negatives": batch.count(-1)}
    return {"loss": total, "grad_norm": norm, "tokens": tokens, "padded_tokens": padded} | counts


def make_optimizer(model: Any, config: TrainingConfig) -> torch.optim.Optimizer:
    """Table 1's optimizer over the trainable weights; the rate is set before each step."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    make = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.RMSprop
    return make(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Rate of step 0, 1, ...: linear warm-up over `warmup_steps`, then constant, or half a cosine that ends near 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


@contextmanager
def isolated(seed: int, device: torch.device) -> Iterator[None]:
    """Generators seeded and kernels deterministic inside; both as before afterwards."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    with _forked(device):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)  # some accelerator kernels have no such form
        # Writing NaN into every new tensor is a debugging aid, and costs a twentieth of a step.
        memory.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            memory.fill_uninitialized_memory = filled


def _forked(device: torch.device) -> AbstractContextManager[None]:
    return torch.random.fork_rng([] if device.type == "cpu" else [device])
