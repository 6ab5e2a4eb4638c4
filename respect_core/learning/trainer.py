"""The trainer: one variant, one seed, from training set to adapters and their validation figures.

Deviations from the paper, and why:
1. An optimizer step takes whole games with about `batch_turns` kept turns, not exactly 64 turns drawn singly: one
   pass over a game gives all its turns.
2. The optimizer has 32-bit states (`variants`, deviation 1), and weight decay covers all adapter weights; there are
   no biases or norms among them. RMSprop's is decoupled from the gradient, as AdamW's is (`RMSprop`).
3. Every checkpoint is validated and kept; the choice among seeds and steps is made elsewhere.

The same seed gives the same adapter bit for bit on one machine with as many threads: everything random comes from the
seed, and the global generators are left as they were found.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from respect_core.learning.checkpoints import Checkpoint, History, ResumeFile, StepRecord, capture, restore, trainable
from respect_core.learning.distributed import ALONE, Processes
from respect_core.learning.gradients import Gradients, TrainingError, find_references
from respect_core.model.base import Base, attach_lora, grow_adapter, save_adapter
from respect_core.model.vision import VisionFeatures
from respect_core.training_data.sampling import Batch, Example, plan_epoch, require_probability
from respect_core.variants import LoraConfig, Objective, TrainingConfig

__all__ = ["Checkpoint", "StepRecord", "TrainingError", "TrainingResult", "train"]

Progress = Callable[[StepRecord, int], None]
"""Called after each step with its record, and with steps in all."""
Validate = Callable[[Any], Mapping[str, float]]
"""Figures of a model on a validation set, `exact_match` among them; the model is in evaluation mode."""


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
    resume: ResumeFile | None = None,
    progress: Progress | None = None,
    processes: Processes = ALONE,
) -> TrainingResult:
    """Train an adapter; its checkpoints go to `out_dir/step-000030/`, a record of each step to `history.jsonl`.

    Args:
        base: the frozen model; left as it is.
        examples: from `sampling.examples`.
        validate: called at each checkpoint.
        lora: shape and placement of a new adapter; one that is continued keeps its own, and gets layers where `lora`
            places more (`base.grow_adapter`).
        seed: of adapter, dropout, batches and image orders.
        features: of the same base.
        init_adapter: where training starts, if `config` says that it resumes from an adapter (in the paper KTO alone,
            section 5): the previous round's, or the seed policy's. Where there is validation, it is the first
            checkpoint, of step 0: what is chosen is never worse than it on the validation set.
        resume: where resume points go, and where training goes on from if there is one. The last is written at the
            end and stays: it is the caller's to delete, once the result is safe.
        processes: those that train together, each calling this with the same arguments. The first one writes,
            validates and reports; the others' results have no checkpoints.

    Raises:
        torch.OutOfMemoryError: the device has not even the memory for one interaction at once.
        ValueError: nothing to learn from, or `init_adapter` where the configuration starts from scratch, or none
            where it goes on from one, or RL without p, or an entropy weight that makes the uniform policy the optimum.
        TrainingError: loss or gradient is not finite.
    """
    if config.from_previous_adapter and init_adapter is None:
        raise ValueError(f"{config.objective} goes on from an adapter: give the previous round's, or the seed policy's")
    if init_adapter is not None and not config.from_previous_adapter:
        raise ValueError(f"{config.objective} starts from scratch here: its configuration does not take an adapter")
    require_probability(examples, config.objective)
    refuse_uniform_optimum(config, base.model.config.get_text_config().vocab_size)
    plan = plan_steps(examples, config, seed)
    if not plan:
        raise ValueError(f"nothing to train on: {len(examples)} games, and no positive turn in them")
    out_dir.mkdir(parents=True, exist_ok=True)
    with isolated(seed, base.device):
        model = (
            grow_adapter(base, init_adapter, lora, seed=seed) if init_adapter else attach_lora(base, lora, seed=seed)
        )
        reference, size = find_references(base, model, examples, config, features)
        size, folder = processes.least(size), out_dir if processes.first else None
        gradients = Gradients(base, model, config, features, reference, processes)
        optimizer = make_optimizer(model, config)
        point, history, seconds = resume.load() if resume else None, History(folder), 0.0
        if point is not None:
            restore(point, model, optimizer, base.device)
            history, seconds, size = History(folder, point.history), point.seconds, point.micro_batch
        elif init_adapter is not None and validate is not None and processes.first:
            _keep(model, out_dir, history, validate, base.device)
        model.train()
        for step, (epoch, batch) in list(enumerate(plan))[len(history.steps) :]:
            started = time.perf_counter()
            rate = learning_rate(config, step, len(plan))
            for group in optimizer.param_groups:
                group["lr"] = rate
            figures, size = gradients.leave(batch, step + 1, size)
            optimizer.step()
            optimizer.zero_grad()
            seconds += time.perf_counter() - started
            history.add_step(StepRecord(step + 1, epoch, learning_rate=rate, micro_batch=size, **figures))
            if not processes.first:
                continue
            if progress is not None:
                progress(history.steps[-1], len(plan))
            due = _due(plan, step, config)
            if due:
                _keep(model, out_dir, history, validate, base.device)
            if resume is not None and (due or (step + 1) % resume.every == 0):
                resume.save(capture(history, seconds, size, model, optimizer, base.device))
    return TrainingResult(tuple(history.steps), tuple(history.checkpoints), seconds)


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


def _keep(model: Any, out_dir: Path, history: History, validate: Validate | None, device: torch.device) -> None:
    """Save the model's adapter as a checkpoint after the steps so far, with its validation figures."""
    adapter = out_dir / f"step-{len(history.steps):06}"
    save_adapter(model, adapter)
    history.add_checkpoint(adapter.name, _validated(validate, model, device))


def _validated(validate: Validate | None, model: Any, device: torch.device) -> dict[str, float]:
    if validate is None:
        return {}
    with _forked(device):
        model.eval()
        figures = dict(validate(model))
        model.train()
    return figures


def make_optimizer(model: Any, config: TrainingConfig) -> torch.optim.Optimizer:
    """Table 1's optimizer over the trainable weights; the rate is set before each step."""
    make = torch.optim.AdamW if config.optimizer == "adamw" else RMSprop
    return make(trainable(model).values(), lr=config.learning_rate, weight_decay=config.weight_decay)


class RMSprop(torch.optim.RMSprop):
    """RMSprop that decays each weight by rate times `weight_decay`, as AdamW does.

    The stock optimizer adds the decay to the gradient before dividing by its size: where the loss's gradient is small,
    the weight walks to zero at the full rate, whatever `weight_decay` says.
    """

    def __init__(self, weights: Iterable[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(weights, lr=lr)
        self._decay = weight_decay

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(1 - group["lr"] * self._decay)
        return super().step(closure)


def refuse_uniform_optimum(config: TrainingConfig, vocabulary: int) -> None:
    """Raise ValueError where the policy that knows nothing minimises the loss of a turn.

    The entropy term gains up to weight times log(vocabulary), which is also what the uniform policy costs in the cross
    entropy of FFT and RL. KTO's loss is bounded: far below the reference, it is lambda_d for a positive and 0 for a
    negative, and a gain larger than their mean outweighs all that it teaches.
    """
    most = lost = math.log(vocabulary)
    if config.objective is Objective.KTO:
        lost = config.kto_desirable * config.positive_to_negative / (1 + config.positive_to_negative)
    if config.entropy_weight * most >= lost:
        raise ValueError(
            f"entropy_weight {config.entropy_weight} is too large for {config.objective} over {vocabulary} tokens: the "
            f"uniform policy would be the optimum; set it below {lost / most:.2g}"
        )


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Rate of step 0, 1, ...: linear warm-up over `warmup_steps`, then constant, or to 0 along a line or a cosine."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    if config.schedule == "linear":
        return config.learning_rate * (1 - done)
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
