"""Train one variant with TRL's trainers on one example per turn: the engine `trl`, beside our own in `trainer`.

For models whose attention or chat template packing does not cover. Batches, steps, rates, optimizer, checkpoints,
history and resume points are those of `trainer.train`; SFTTrainer and KTOTrainer compute losses and gradients.

Deviations from the engine `packed`, numbered as they are cited elsewhere:
1. Each learned turn is an example of its own: the conversation up to its action is the prompt, tokenised as the policy
   sees it, and only the action's tokens have a loss. A conversation of n turns is read n times.
2. SFTTrainer takes the mean over the tokens of a batch, so that a long action counts more than a short one;
   `length_normalised` does not apply.
3. There is no entropy term. SFTTrainer smooths labels as we do, at the price of a second pass; KTOTrainer cannot.
4. KTO refers to the adapter that training starts from, never to the logged p, and its log-ratios are sums over tokens.
   The reference is scored again in every step, with rows in the same order; adapters have no dropout, as TRL sets it.
5. KTO's z0 is 0, as `packed` has it where a scenario names no alternative actions: TRL's loss `apo_zero_unpaired`,
   which is the KTO loss at z0 = 0. Scenarios that name alternatives are refused.
6. KTO takes rehearsed turns of D0 for desirable ones.
7. A pass holds `micro_batch_interactions` turns and does not shrink if the device runs out of memory. Passes of a step
   have the same number of turns or one more or less; KTO takes the mean of their means.
8. Bases without images only, in one process. REINFORCE has no trainer in TRL for logged actions.
"""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback

from respect_core.learning.checkpoints import History, ResumeFile, StepRecord, capture, restore
from respect_core.learning.distributed import ALONE, Processes
from respect_core.learning.gradients import TrainingError
from respect_core.learning.trainer import (
    Progress,
    TrainingResult,
    Validate,
    is_checkpoint,
    isolated,
    learning_rate,
    make_optimizer,
    plan_training,
    save_checkpoint,
    starting_model,
)
from respect_core.model.base import Base
from respect_core.model.chat import chat
from respect_core.model.lora import view
from respect_core.model.packing import encode
from respect_core.model.vision import VisionFeatures
from respect_core.training_data.sampling import Batch, Example, Game
from respect_core.variants import LoraConfig, Objective, TrainingConfig

Plan = Sequence[tuple[int, Batch]]
Row = dict[str, Any]
"""A turn: `input_ids` up to the end of its action, `labels` of the action's tokens, `label` whether it is desirable."""

_NO_LOSS = -100
"""The label of a token without a loss, in transformers and TRL."""


def train(
    base: Base,
    examples: Sequence[Example],
    validate: Validate | None,
    config: TrainingConfig,
    lora: LoraConfig,
    seed: int,
    out_dir: Path,
    *,
    features: VisionFeatures,  # noqa: ARG001  # of no images
    init_adapter: Path | None = None,
    resume: ResumeFile | None = None,
    progress: Progress | None = None,
    processes: Processes = ALONE,
) -> TrainingResult:
    """Train an adapter with TRL; arguments, files and result are those of `trainer.train`.

    Raises:
        torch.OutOfMemoryError: the device lacks the memory for a pass.
        ValueError: as `trainer.train` does; or base, scenario or settings are not TRL's (deviations 2 to 5 and 8).
        TrainingError: loss or gradient is not finite.
    """
    _require_covered(base, examples, config, processes)
    plan = plan_training(examples, config, seed, init_adapter)
    out_dir.mkdir(parents=True, exist_ok=True)
    with isolated(seed, base.device), _other_generators():
        model = starting_model(_with_own_settings(base), init_adapter, lora, seed)
        optimizer = make_optimizer(model, config)
        point = resume.load() if resume else None
        history = History(out_dir, point.history if point else "")
        if point is None and init_adapter is not None and validate is not None:
            save_checkpoint(model, out_dir, history, validate, base.device)
        steps = _Steps(base, model, optimizer, plan, config, history, validate, out_dir, resume, progress)
        if len(history.steps) < len(plan):
            trainer = _trainer(steps, seed)
            if point is not None:
                restore(point, model, optimizer, base.device)
                steps.seconds = point.seconds
            trainer.train()
    return TrainingResult(tuple(history.steps), tuple(history.checkpoints), steps.seconds)


def _require_covered(base: Base, examples: Sequence[Example], config: TrainingConfig, processes: Processes) -> None:
    """Raise ValueError unless TRL trains this."""
    reason, covered = None, config.on("trl")
    if config.objective is Objective.RL:
        reason = "TRL has no trainer for REINFORCE on logged actions"
    elif chat(base.processor).image_id is not None:
        reason = f"the base {base.name} takes images, and this engine only text"
    elif config != covered:
        names = [each.name for each in fields(config) if getattr(config, each.name) != getattr(covered, each.name)]
        reason = f"TRL lacks what these settings ask for: {', '.join(names)} (`TrainingConfig.on` changes them)"
    elif config.objective is Objective.KTO and any(
        base.scenario.alternative(example.interaction, turn) is not None
        for example in examples
        for turn in range(len(example.interaction.turns))
    ):
        reason = f"the scenario {base.scenario.name} names alternative actions, which KTOTrainer has no place for"
    elif processes.count > 1:
        reason = f"the engine 'trl' trains in one process, not {processes.count}; unset RESPECT_ACCELERATE"
    if reason is not None:
        raise ValueError(f"{reason}; or train with the engine 'packed'")


def _with_own_settings(base: Base) -> Base:
    """Return the base with copies of its settings: the trainers write their tokens into them."""
    model = view(base.model)
    model.config, model.generation_config = copy.deepcopy((model.config, model.generation_config))
    return replace(base, model=model)


@contextmanager
def _other_generators() -> Iterator[None]:
    """Restore the generators of Python and NumPy, which the trainers seed too."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _row(base: Base, game: Game, turn: int) -> Row:
    """Tokenise a turn and all that came before it, as `packing.encode` does for whole interactions."""
    cut = replace(game.interaction, turns=game.interaction.turns[: turn + 1])
    encoded = encode(cut, base.processor, base.scenario)
    span = encoded.spans[-1]
    labels = [_NO_LOSS] * (2 + span.predictors[-1])
    for predictor, target in zip(span.predictors, span.targets, strict=True):
        labels[predictor + 1] = target
    return {"input_ids": encoded.input_ids[: len(labels)], "labels": labels, "label": game.labels[turn] == 1}


def _collate(rows: Sequence[Row], pad_id: int, objective: Objective) -> dict[str, torch.Tensor]:
    """Pad rows on the right into the columns that a trainer takes."""

    def padded(values: Sequence[torch.Tensor], padding: int) -> torch.Tensor:
        return pad_sequence(list(values), batch_first=True, padding_value=padding)

    ids = [torch.tensor(row["input_ids"]) for row in rows]
    labels = padded([torch.tensor(row["labels"]) for row in rows], _NO_LOSS)
    batch = {"input_ids": padded(ids, pad_id), "attention_mask": padded([torch.ones_like(each) for each in ids], 0)}
    if objective is Objective.FFT:
        return batch | {"labels": labels}
    desirable = torch.tensor([row["label"] for row in rows])
    return batch | {"completion_mask": (labels != _NO_LOSS).long(), "label": desirable}


class _Planned:
    """Replaces what TRL's trainers do with a data set of their own: batches are planned and tokenised already."""

    loader: DataLoader[Row]

    def get_train_dataloader(self) -> DataLoader[Row]:
        return self.loader

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def _send_telemetry(self) -> None:
        """Send nothing."""


def _trainer(steps: _Steps, seed: int) -> Any:
    """Make the trainer of the steps that are left."""
    from datasets import Dataset  # with TRL, which takes seconds to import
    from trl import KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

    base, config, done = steps.base, steps.config, len(steps.history.steps)
    options: dict[str, Any] = {
        "output_dir": str(steps.out_dir),
        "seed": seed,
        "max_steps": len(steps.plan) - done,
        "per_device_train_batch_size": config.micro_batch_interactions,
        "gradient_accumulation_steps": steps.passes,
        "max_grad_norm": config.max_grad_norm,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # else a loss that is not a number is logged as the mean of earlier ones
        "disable_tqdm": True,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": base.device.type == "cpu",
        "bf16": False,  # the base's own precision, as in `packed`
        "gradient_checkpointing": False,
        "max_length": None,
    }
    kind: Any
    settings: Any
    if config.objective is Objective.FFT:
        kind, settings = SFTTrainer, SFTConfig(**options, label_smoothing_factor=config.label_smoothing)
    else:
        weights: Any = {"desirable_weight": config.kto_desirable, "undesirable_weight": config.kto_undesirable}
        kind, settings = KTOTrainer, KTOConfig(**options, **weights, beta=config.kto_beta, loss_type=_WITHOUT_Z0)
    rows = Dataset.from_list(steps.rows)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        steps.optimizer, lambda step: learning_rate(config, done + step, len(steps.plan)) / config.learning_rate
    )
    trainer = type("Planned", (_Planned, kind), {})(
        model=steps.model,
        args=settings,
        train_dataset=rows,
        processing_class=base.processor.tokenizer,
        callbacks=[steps],
        optimizers=(steps.optimizer, schedule),
    )
    trainer.remove_callback(PrinterCallback)  # standard output is the worker's
    trainer.loader = DataLoader(
        rows,
        batch_sampler=[part for step in steps.parts[done:] for part in step],
        collate_fn=partial(_collate, pad_id=chat(base.processor).pad_id, objective=config.objective),
        generator=torch.Generator(),  # its own, so that a run that resumes draws the same dropout
    )
    if "ref" in steps.model.peft_config:  # TRL copies the layers' weights into its reference, but no embedding's
        weights = peft.get_peft_model_state_dict(steps.model, adapter_name="default", save_embedding_layers=False)
        peft.set_peft_model_state_dict(steps.model, weights, adapter_name="ref")
    return trainer


_WITHOUT_Z0 = "apo_zero_unpaired"


@dataclass
class _Steps(TrainerCallback):
    """The steps of a training: their passes, and after each its record, checkpoint and resume point.

    `parts[step]` has the places in `rows` of the turns of each pass.
    """

    base: Base
    model: Any
    optimizer: torch.optim.Optimizer
    plan: Plan
    config: TrainingConfig
    history: History
    validate: Validate | None
    out_dir: Path
    resume: ResumeFile | None
    progress: Progress | None
    seconds: float = 0.0
    rows: list[Row] = field(init=False)
    parts: list[list[list[int]]] = field(init=False)

    def __post_init__(self) -> None:
        self.rows, self.parts = [], []
        places: dict[tuple[str, int], int] = {}
        steps = []
        for _, batch in self.plan:
            turns = [(game, turn) for game in batch.games for turn in game.kept]
            for game, turn in turns:
                if (key := (game.interaction.interaction_id, turn)) not in places:
                    places[key] = len(self.rows)
                    self.rows.append(_row(self.base, game, turn))
            steps.append([places[game.interaction.interaction_id, turn] for game, turn in turns])
        lengths = [len(row["input_ids"]) for row in self.rows]
        # Each step has the same number of passes, as the trainers want it, and none is empty.
        sizes = [len(step) for step in steps]
        self.passes = min(math.ceil(max(sizes) / self.config.micro_batch_interactions), *sizes)
        for step in steps:
            longest_first = sorted(step, key=lambda place: -lengths[place])
            self.parts.append([part.tolist() for part in np.array_split(longest_first, self.passes)])

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._started = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002  # the library's
        """Record a step: the trainers log after each, and once more at the end, without a loss."""
        logs: Mapping[str, float] = kwargs["logs"]
        if "loss" not in logs:
            return
        self.seconds += time.perf_counter() - self._started
        step, history, device = len(self.history.steps), self.history, self.base.device
        history.add_step(self._record(step, logs))
        if self.progress is not None:
            self.progress(history.steps[-1], len(self.plan))
        if due := is_checkpoint(self.plan, step, self.config):
            save_checkpoint(self.model, self.out_dir, history, self.validate, device)
        if self.resume is not None and (due or (step + 1) % self.resume.every == 0):
            micro_batch = self.config.micro_batch_interactions
            self.resume.save(capture(history, self.seconds, micro_batch, self.model, self.optimizer, device))

    def _record(self, step: int, logs: Mapping[str, float]) -> StepRecord:
        """Return the record of a step. Raises TrainingError if loss or gradient is not finite."""
        epoch, batch = self.plan[step]
        loss, norm, kto = logs["loss"], logs["grad_norm"], self.config.objective is Objective.KTO
        if not (math.isfinite(loss) and math.isfinite(norm)):
            names = ", ".join(game.interaction.interaction_id for game in batch.games)
            raise TrainingError(
                f"step {step + 1}: the loss is {loss}, the gradient {norm} on {names}; lower the learning rate"
            )
        lengths = [[len(self.rows[place]["input_ids"]) for place in part] for part in self.parts[step]]
        times = 2 if kto or self.config.label_smoothing else 1  # the reference, or the logits
        rehearsed = {game.rehearsed for game in batch.games}
        ratios = {name: logs.get(f"rewards/{name}") for name in ("chosen", "rejected")}
        positive, negative = (None if ratio is None else ratio / self.config.kto_beta for ratio in ratios.values())
        return StepRecord(
            step + 1,
            epoch,
            loss=loss,
            learning_rate=logs["learning_rate"],
            grad_norm=norm,
            positives=batch.count(1),
            negatives=batch.count(-1),
            tokens=times * sum(map(sum, lengths)),
            padded_tokens=times * sum(len(part) * max(part) for part in lengths),
            micro_batch=self.config.micro_batch_interactions,
            objective=loss if kto or rehearsed == {False} else None,
            rehearsal=loss if not kto and rehearsed == {True} else None,
            entropy=logs["entropy"],
            log_ratio_positive=positive,
            log_ratio_negative=negative,
            z0=logs.get("kl"),
        )
