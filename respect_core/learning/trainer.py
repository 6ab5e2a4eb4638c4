"""Train one variant with one seed, from training set to adapters and their validation figures.

Deviations from the paper, and why:
1. An optimizer step takes whole games with about `batch_turns` kept turns, not exactly 64 turns drawn one by one: one
   pass over a game gives all its turns.
2. The optimizer has 32-bit states (`variants`, deviation 1), and weight decay covers all adapter weights; there are
   no biases or norms among them. RMSprop's is decoupled from the gradient, as AdamW's is (`RMSprop`).
3. Every checkpoint is validated and kept; the choice among seeds and steps is made elsewhere.

The same seed gives the same adapter bit for bit on one machine with the same number of threads: all randomness comes
from the seed, and the global generators are restored afterwards.
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
from respect_core.learning.gradients import Gradients, find_references
from respect_core.model.base import Base, attach_lora, grow_adapter, save_adapter
from respect_core.model.vision import VisionFeatures
from respect_core.training_data.sampling import Batch, Example, plan_epoch, require_probability
from respect_core.variants import LoraConfig, Objective, TrainingConfig

Progress = Callable[[StepRecord, int], None]
"""Called after each step with its record and the total number of steps."""
Validate = Callable[[Any], Mapping[str, float]]
"""Figures of a model on a validation set, `exact_match` among them; the model is in evaluation mode."""


@dataclass(frozen=True)
class TrainingResult:
    """The result of a run."""

    history: tuple[StepRecord, ...]
    checkpoints: tuple[Checkpoint, ...]
    seconds: float  # of optimization, without references, validation and checkpoints

    @property
    def turns(self) -> int:
        """Number of turns with a loss, over all steps."""
        return sum(record.positives + record.negatives for record in self.history)

    @property
    def tokens(self) -> int:
        return sum(record.tokens for record in self.history)

    @property
    def padding(self) -> float:
        """Share of padding in the tokens that went through the model."""
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
        lora: shape and placement of a new adapter; an adapter to continue keeps its own, and gets layers where `lora`
            places more (`base.grow_adapter`).
        seed: of adapter, dropout, batches and image orders.
        features: of the same base.
        init_adapter: the adapter to start from, if `config` says that training continues one (in the paper KTO only,
            section 5): the previous round's, or the seed policy's. With validation it is the first checkpoint, of
            step 0, so that the choice is never worse than it on the validation set.
        resume: the file for resume points; training resumes from the point in it, if any. The last point is written at
            the end and stays: the caller deletes it once the result is safe.
        processes: the processes that train together, each calling this with the same arguments. The first one writes,
            validates and reports; the others' results have no checkpoints.

    Raises:
        torch.OutOfMemoryError: the device lacks the memory even for one interaction.
        ValueError: nothing to learn from; `init_adapter` if the configuration starts from scratch, or none if it
            continues one; RL without p; an entropy weight that makes the uniform policy the optimum.
        TrainingError: loss or gradient is not finite.
    """
    require_probability(examples, config.objective)
    refuse_uniform_optimum(config, base.model.config.get_text_config().vocab_size)
    plan = plan_training(examples, config, seed, init_adapter)
    out_dir.mkdir(parents=True, exist_ok=True)
    with isolated(seed, base.device):
        model = starting_model(base, init_adapter, lora, seed)
        reference, size = find_references(base, model, examples, config, features)
        size, folder = processes.all_reduce_min(size), out_dir if processes.first else None
        gradients = Gradients(base, model, config, features, reference, processes)
        optimizer = make_optimizer(model, config)
        point, history, seconds = resume.load() if resume else None, History(folder), 0.0
        if point is not None:
            restore(point, model, optimizer, base.device)
            history, seconds, size = History(folder, point.history), point.seconds, point.micro_batch
        elif init_adapter is not None and validate is not None and processes.first:
            save_checkpoint(model, out_dir, history, validate, base.device)
        model.train()
        for step, (epoch, batch) in list(enumerate(plan))[len(history.steps) :]:
            started = time.perf_counter()
            rate = learning_rate(config, step, len(plan))
            for group in optimizer.param_groups:
                group["lr"] = rate
            figures, size = gradients.accumulate(batch, step + 1, size)
            optimizer.step()
            optimizer.zero_grad()
            seconds += time.perf_counter() - started
            history.add_step(StepRecord(step + 1, epoch, learning_rate=rate, micro_batch=size, **figures))
            if not processes.first:
                continue
            if progress is not None:
                progress(history.steps[-1], len(plan))
            due = is_checkpoint(plan, step, config)
            if due:
                save_checkpoint(model, out_dir, history, validate, base.device)
            if resume is not None and (due or (step + 1) % resume.every == 0):
                resume.save(capture(history, seconds, size, model, optimizer, base.device))
    return TrainingResult(tuple(history.steps), tuple(history.checkpoints), seconds)


def plan_training(
    examples: Sequence[Example], config: TrainingConfig, seed: int, init_adapter: Path | None
) -> list[tuple[int, Batch]]:
    """Plan the epoch and batch of every step. Raises ValueError as `train` does about examples and `init_adapter`."""
    if config.from_previous_adapter and init_adapter is None:
        raise ValueError(f"{config.objective} continues an adapter: give the previous round's, or the seed policy's")
    if init_adapter is not None and not config.from_previous_adapter:
        raise ValueError(f"{config.objective} starts from scratch here: its configuration does not take an adapter")
    plan = plan_steps(examples, config, seed)
    if not plan:
        raise ValueError(f"nothing to train on: {len(examples)} games, and no positive turn in them")
    return plan


def starting_model(base: Base, init_adapter: Path | None, lora: LoraConfig, seed: int) -> Any:
    """Return the base with the adapter that training starts from: a given one, or a fresh one."""
    return grow_adapter(base, init_adapter, lora, seed=seed) if init_adapter else attach_lora(base, lora, seed=seed)


def plan_steps(examples: Sequence[Example], config: TrainingConfig, seed: int) -> list[tuple[int, Batch]]:
    """Plan the epoch and batch of every step: `config.epochs` epochs, or `config.max_steps` steps if that is fewer."""
    plan: list[tuple[int, Batch]] = []
    for epoch in range(config.epochs):
        plan += [(epoch, batch) for batch in plan_epoch(examples, config, seed, epoch)]
        if config.max_steps is not None and len(plan) >= config.max_steps:
            return plan[: config.max_steps]
    return plan


def is_checkpoint(plan: Sequence[tuple[int, Batch]], step: int, config: TrainingConfig) -> bool:
    """Return whether a checkpoint follows step `step` (from 0).

    One does at the end, and every `config.checkpoint_every` steps or at the end of each epoch.
    """
    if step + 1 == len(plan):
        return True
    if config.checkpoint_every is not None:
        return (step + 1) % config.checkpoint_every == 0
    return plan[step + 1][0] != plan[step][0]


def save_checkpoint(
    model: Any, out_dir: Path, history: History, validate: Validate | None, device: torch.device
) -> None:
    """Save the model's adapter as a checkpoint after the steps so far, with its validation figures."""
    adapter = out_dir / f"step-{len(history.steps):06}"
    save_adapter(model, adapter)
    figures: Mapping[str, float] = {}
    if validate is not None:
        with _fork_generators(device):
            model.eval()
            figures = validate(model)
            model.train()
    history.add_checkpoint(adapter.name, figures)


def make_optimizer(model: Any, config: TrainingConfig) -> torch.optim.Optimizer:
    """Make Table 1's optimizer over the trainable weights; the rate is set before each step."""
    make = torch.optim.AdamW if config.optimizer == "adamw" else RMSprop
    return make(trainable(model).values(), lr=config.learning_rate, weight_decay=config.weight_decay)


class RMSprop(torch.optim.RMSprop):
    """RMSprop that decays each weight by rate times `weight_decay`, as AdamW does.

    The stock optimizer adds the decay to the gradient before dividing by its size: if the loss's gradient is small, the
    weight moves to zero at the full rate, whatever `weight_decay` says.
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
    """Raise ValueError if the uniform policy minimises the loss of a turn.

    The entropy term gains up to weight times log(vocabulary), which is also the uniform policy's cost in the cross
    entropy of FFT and RL. KTO's loss is bounded: far below the reference, it is lambda_d for a positive and 0 for a
    negative, and a gain larger than their mean outweighs everything that it teaches.
    """
    entropy = cost = math.log(vocabulary)
    if config.objective is Objective.KTO:
        cost = config.kto_desirable * config.positive_to_negative / (1 + config.positive_to_negative)
    if config.entropy_weight * entropy >= cost:
        raise ValueError(
            f"entropy_weight {config.entropy_weight} is too large for {config.objective} over {vocabulary} tokens: the "
            f"uniform policy would be the optimum; set it below {cost / entropy:.2g}"
        )


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Return the rate of step 0, 1, ...: linear warm-up, then constant, or down to 0 along a line or a cosine."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    if config.schedule == "linear":
        return config.learning_rate * (1 - progress)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


@contextmanager
def isolated(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the generators and make kernels deterministic; restore both afterwards."""
    settings = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    with _fork_generators(device):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)  # some accelerator kernels have no such form
        # Writing NaN into every new tensor is a debugging aid, and costs a twentieth of a step.
        memory.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(settings[0], warn_only=settings[1])
            memory.fill_uninitialized_memory = fill


def _fork_generators(device: torch.device) -> AbstractContextManager[None]:
    """Restore the states of the global generators on leaving the context."""
    return torch.random.fork_rng([] if device.type == "cpu" else [device])
