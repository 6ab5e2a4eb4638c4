"""Record a training run: its history, its checkpoints, and the point from which it resumes if killed.

A run that resumes gives the same result as an uninterrupted one, bit for bit on one machine. A resume point is one
file, written atomically: under another name, then renamed. It is read without unpickling objects.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_log = logging.getLogger(__name__)

HISTORY = "history.jsonl"


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
    tokens: int  # in all forward passes, without padding
    padded_tokens: int  # with padding
    micro_batch: int  # most interactions in one forward pass; falls when the device runs out of memory
    # Parts of the loss (`batch_loss.PARTS`), each a mean over the turns that have it; None if none has.
    objective: float | None = None  # of decoded turns, without the entropy term
    rehearsal: float | None = None  # cross entropy of D0's turns, in nats
    entropy: float | None = None  # of the token distribution at the action's tokens, in nats
    log_ratio_positive: float | None = None  # KTO's log P/P_ref of decoded positives, in nats
    log_ratio_negative: float | None = None
    z0: float | None = None  # KTO's reference point, in nats


@dataclass(frozen=True)
class Checkpoint:
    """An adapter saved during training, with its validation figures; empty without a validation set."""

    step: int
    epoch: int
    adapter: Path
    validation: Mapping[str, float]


class History:
    """Steps and checkpoints so far, in order, each appended to `history.jsonl` at once.

    Args:
        folder: of the run; a history in it is replaced. None: nothing is written.
        lines: of a history to continue.
    """

    def __init__(self, folder: Path | None, lines: str = "") -> None:
        self.folder, self.lines = folder, lines
        self.steps: list[StepRecord] = []
        self.checkpoints: list[Checkpoint] = []
        for line in lines.splitlines():
            self._add(json.loads(line))
        if folder is not None:
            (folder / HISTORY).write_text(lines)

    def add_step(self, record: StepRecord) -> None:
        self._write(asdict(record))

    def add_checkpoint(self, adapter: str, validation: Mapping[str, float]) -> None:
        """Record a checkpoint after the steps so far; `adapter` is its folder within the run's."""
        self._write({"step": len(self.steps), "checkpoint": adapter, **validation})

    def _write(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry) + "\n"
        if self.folder is not None:
            with (self.folder / HISTORY).open("a") as file:
                file.write(line)
        self.lines += line
        self._add(entry)

    def _add(self, entry: dict[str, Any]) -> None:
        if "checkpoint" in entry:
            figures = {name: value for name, value in entry.items() if name not in ("step", "checkpoint")}
            adapter = (self.folder or Path()) / entry["checkpoint"]
            epoch = self.steps[-1].epoch if self.steps else 0
            self.checkpoints.append(Checkpoint(entry["step"], epoch, adapter, figures))
        else:
            self.steps.append(StepRecord(**entry))


@dataclass(frozen=True)
class ResumePoint:
    """A run between two steps. Batches and their order follow from the seed and the number of steps done."""

    history: str  # lines of the history so far
    seconds: float  # of optimization so far
    micro_batch: int
    weights: dict[str, Tensor]  # trainable ones, by name
    optimizer: dict[str, Any]
    generators: list[Tensor]


@dataclass(frozen=True)
class ResumeFile:
    """The file with a run's latest resume point.

    `key` stands for everything that the run depends on: a run does not resume from a point with another key. `every`:
    steps between points; each checkpoint is followed by one too.
    """

    file: Path
    key: str
    every: int = 10

    def save(self, point: ResumePoint) -> None:
        """Save a point in place of the last one."""
        unfinished = self.file.with_name(f"{self.file.name}.tmp")
        with unfinished.open("wb") as file:
            torch.save({"key": self.key, **vars(point)}, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.file)

    def load(self) -> ResumePoint | None:
        """Load the latest point; None if this run has none."""
        try:
            content = torch.load(self.file, map_location="cpu", weights_only=True)
            if content.pop("key") != self.key:
                return None
            return ResumePoint(**content)
        except FileNotFoundError:
            return None
        except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError) as error:
            _log.warning("%s is not a resume point (%s); training starts from the beginning", self.file, error)
            return None


def trainable(model: Any) -> dict[str, Any]:
    """Return a model's trainable weights, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def generators(device: torch.device) -> list[Tensor]:
    """Return the states of the global random generators: the CPU's, and the device's if it is another."""
    accelerator = [] if device.type == "cpu" else [torch.get_device_module(device).get_rng_state(device)]
    return [torch.get_rng_state(), *accelerator]


def set_generators(states: list[Tensor], device: torch.device) -> None:
    """Restore states from `generators`; a device without a state among them keeps its own."""
    torch.set_rng_state(states[0])
    if device.type != "cpu" and len(states) > 1:
        torch.get_device_module(device).set_rng_state(states[1], device)


def capture(
    history: History,
    seconds: float,
    micro_batch: int,
    model: Any,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> ResumePoint:
    """Capture a run between two steps. The point holds the model's own tensors: save it before the next step."""
    weights = {name: weight.detach() for name, weight in trainable(model).items()}
    return ResumePoint(history.lines, seconds, micro_batch, weights, optimizer.state_dict(), generators(device))


def restore(point: ResumePoint, model: Any, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Restore weights, optimizer and generators as they were at the point."""
    weights = trainable(model)
    if weights.keys() != point.weights.keys():
        raise ValueError("the resume point has other weights than the model; delete it to train from the beginning")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(point.weights[name])
    optimizer.load_state_dict(point.optimizer)
    set_generators(point.generators, device)
