"""Training and validation in the precision that the processor likes best, against fp32; nothing where that is fp32.

Both sides have the same weights and the same work on one thread, and processor time is the clock. A side of training is
a whole call of `training.train`, for KTO with its references. The model has untrained weights, so all verdicts of
validation are "wrong".
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import torch

from respect_core.acting.policy import Policy
from respect_core.learning import trainer as training
from respect_core.learning.gradients import Gradients, find_references
from respect_core.learning.validation import exact_match
from respect_core.model import precision
from respect_core.model.base import Base, attach_lora, load_adapter, save_adapter
from respect_core.model.vision import VisionFeatures
from respect_core.training_data.sampling import Example
from respect_core.variants import LoraConfig, Objective, TrainingConfig
from tests.bench import games, models
from tests.bench.record import Record, case, compare
from tests.bench.training import FFT, KTO, Method

SIZE = "135m"
TURNS = 6  # a game
BAR = 1.8
TOLERANCE = 0.01
"""How far apart, relatively, losses may be; rounding in bf16 is 0.004 for a single number."""
STEPS = 3  # of a training, whose start and end take as long as a third of a step
DTYPES = (torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Work:
    """What both sides do."""

    examples: Sequence[Example]
    config: TrainingConfig
    lora: LoraConfig


@case("training-precision")
def training_precision(quick: bool) -> Iterator[Record]:
    count, steps, repeats = (1, 1, 1) if quick else (2, STEPS, 2)
    for method in (FFT,) if quick else (FFT, KTO):
        if _gains():
            yield _train(_work(method, count, steps), repeats=repeats)


@case("validation-precision")
def validation_precision(quick: bool) -> Iterator[Record]:
    if _gains():
        yield _validate(1 if quick else 4, repeats=1 if quick else 2)


def _base(dtype: torch.dtype) -> Base:
    return models.base(SIZE) if dtype == torch.float32 else models.base(SIZE, dtype)


@lru_cache(maxsize=2)
def _features(dtype: torch.dtype) -> VisionFeatures:
    return VisionFeatures(_base(dtype), models.pictures())


def _gains() -> bool:
    return precision.has_fast_bf16(torch.device("cpu"), _base(torch.float32).model.config)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _work(method: Method, count: int, steps: int) -> Work:
    config = replace(method.config, epochs=steps)
    data = games.examples(count, TURNS, positives=config.objective is Objective.FFT)
    return Work(data, config, models.lora(SIZE))


def _train(work: Work, *, repeats: int) -> Record:
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        start = Path(folder) / "start"
        save_adapter(attach_lora(_base(torch.float32), work.lora, seed=0), start)

        def run(dtype: torch.dtype) -> None:
            adapter = start if work.config.from_previous_adapter else None
            arguments = (work.examples, None, work.config, work.lora, 0, Path(folder) / "run")
            base, features = _base(dtype), _features(dtype)
            training.train(base, *arguments, features=features, init_adapter=adapter)

        return compare(
            "training-precision",
            f"{SIZE}, {work.config.objective.value}",
            TURNS,
            ours=partial(run, torch.bfloat16),
            peer=partial(run, torch.float32),
            work=sum(batch.turns for _, batch in training.plan_steps(work.examples, work.config, 0)),
            unit="turns/processor s",
            peer_name="fp32",
            bar=BAR,
            equality=_losses(work),
            repeats=repeats,
            warm_up=False,  # losses were one
            processor=True,
        )


def _losses(work: Work) -> str:
    """Losses and gradients of a batch without dropout, from adapters far from zero.

    Raises:
        AssertionError: losses differ by more than TOLERANCE.
    """
    losses, gradients = [], []
    for dtype in DTYPES:
        base, features = _base(dtype), _features(dtype)
        model = models.push(attach_lora(base, work.lora, seed=0), 0.01).eval()
        reference, size = find_references(base, model, work.examples, work.config, features)
        _, batch = training.plan_steps(work.examples, work.config, 0)[0]
        figures, _ = Gradients(base, model, work.config, features, reference).accumulate(batch, 1, size)
        losses.append(figures["loss"])
        gradients.append(torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None]))
    apart = abs(losses[0] - losses[1]) / abs(losses[1])
    assert apart < TOLERANCE, f"the losses are {losses}"
    cosine = torch.nn.functional.cosine_similarity(*map(torch.Tensor.double, gradients), dim=0)
    return f"losses {losses[1]:.4f}, apart by {apart:.0e} of it; gradients' cosine {cosine:.4f}"


def _validate(count: int, *, repeats: int) -> Record:
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        played = [example.interaction for example in games.examples(count, TURNS)]
        adapter = Path(folder) / "adapter"
        save_adapter(models.push(attach_lora(_base(torch.float32), models.lora(SIZE), seed=0), 0.01), adapter)
        policies = []
        for dtype in DTYPES:
            base = _base(dtype)
            policies.append(Policy(base, load_adapter(base, adapter), _features(dtype)))
        fast, exact = (exact_match(policy, played, count_illegal=False) for policy in policies)
        same = sum(fast.scores[key] == right for key, right in exact.scores.items())
        return compare(
            "validation-precision",
            SIZE,
            TURNS,
            ours=partial(exact_match, policies[0], played, count_illegal=False),
            peer=partial(exact_match, policies[1], played, count_illegal=False),
            work=exact.n_turns,
            unit="turns/processor s",
            peer_name="fp32",
            bar=BAR,
            equality=f"{same} of {exact.n_turns} verdicts equal, {sum(exact.scores.values()):g} right",
            repeats=repeats,
            warm_up=False,
            processor=True,
        )
