"""Training and validation in the precision that the processor likes best, against fp32; nothing where that is fp32.

Both sides have the same weights and the same work on one thread, and processor time is the clock. A side of training is
a whole call of `training.train`, for KTO with its references. `135m` is the reference game with untrained weights;
`home` is SmolLM2-135M-Instruct with the conversations, adapters and settings of the profile `home`, whose validation
comes after its seed policy's training.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from respect_core import profiles
from respect_core.acting.policy import Policy
from respect_core.interaction import Interaction
from respect_core.learning import trainer as training
from respect_core.learning.gradients import Gradients, find_references
from respect_core.learning.validation import exact_match
from respect_core.log.records import from_log
from respect_core.model import precision
from respect_core.model.base import Base, attach_lora, load_adapter, load_base, save_adapter
from respect_core.model.vision import VisionFeatures
from respect_core.scenario import scenario
from respect_core.training_data.curated import D0, VALIDATION
from respect_core.training_data.sampling import Example
from respect_core.variants import LoraConfig, Objective, TrainingConfig
from tests.bench import games, models
from tests.bench.record import Record, case, compare
from tests.bench.training import game_config

BAR = 1.8
TOLERANCE = 0.01
"""How far apart, relatively, losses may be; rounding in bf16 is 0.004 for a single number."""
STEPS = 3  # of a training, whose start and end take as long as a third of a step
DTYPES = (torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Work:
    """What both sides do."""

    size: str
    turns: int | None
    examples: Sequence[Example]
    config: TrainingConfig
    lora: LoraConfig


@case("training-precision")
def training_precision(quick: bool) -> Iterator[Record]:
    count, steps, repeats = (1, 1, 1) if quick else (2, STEPS, 2)
    for size in ("135m",) if quick else ("135m", "home"):
        for objective in (Objective.FFT,) if quick else (Objective.FFT, Objective.KTO):
            if _gains(size):
                yield _train(_work(size, objective, count, steps), repeats=repeats)


@case("validation-precision")
def validation_precision(quick: bool) -> Iterator[Record]:
    for size in ("135m",) if quick else ("135m", "home"):
        if _gains(size):
            yield _validate(size, 1 if quick else 2, repeats=1 if quick else 2)


@lru_cache(maxsize=4)
def _base(size: str, dtype: torch.dtype) -> Base:
    if size == "home":
        return load_base(profiles.home().base, scenario("home"), device="cpu", dtype=dtype)
    return models.base(size) if dtype == torch.float32 else models.base(size, dtype)


@lru_cache(maxsize=4)
def _features(size: str, dtype: torch.dtype) -> VisionFeatures:
    return VisionFeatures(_base(size, dtype), models.pictures() if size == "135m" else {})


def _gains(size: str) -> bool:
    return precision.has_fast_bf16(torch.device("cpu"), _base(size, torch.float32).model.config)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _work(size: str, objective: Objective, count: int, steps: int = STEPS) -> Work:
    if size == "135m":
        config = replace(game_config(objective.value), epochs=steps)
        data = games.examples(count, 6, positives=objective is Objective.FFT)
        return Work(size, 6, data, config, models.lora(size))
    profile = profiles.home()
    logs = _conversations(D0)[:8]
    # Every third turn is as if it had been wrong, for KTO.
    labels = [[-1 if number % 3 == 2 else 1 for number in range(len(each.turns))] for each in logs]
    data = tuple(Example(each, tuple(label)) for each, label in zip(logs, labels, strict=True))
    config = replace(profile.training[objective], max_steps=steps, checkpoint_every=None)
    return Work(size, None, data, config, profile.lora)


def _conversations(name: str) -> list[Interaction]:
    """Between people, of the profile `home`."""
    from respect_core.measuring.world import world  # needs the extra `home`

    store: Any = None  # which only worlds with pictures write
    return [from_log(log) for log in world("home").game_set(store, profiles.home(), name)]


def _train(work: Work, *, repeats: int) -> Record:
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        start = Path(folder) / "start"
        save_adapter(attach_lora(_base(work.size, torch.float32), work.lora, seed=0), start)

        def run(dtype: torch.dtype) -> None:
            adapter = start if work.config.from_previous_adapter else None
            arguments = (work.examples, None, work.config, work.lora, 0, Path(folder) / "run")
            base, features = _base(work.size, dtype), _features(work.size, dtype)
            training.train(base, *arguments, features=features, init_adapter=adapter)

        return compare(
            "training-precision",
            f"{work.size}, {work.config.objective.value}",
            work.turns,
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
        base, features = _base(work.size, dtype), _features(work.size, dtype)
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


def _validate(size: str, count: int, *, repeats: int) -> Record:
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        adapter = Path(folder) / "adapter"
        if size == "135m":
            played = [example.interaction for example in games.examples(count, 6)]
            save_adapter(models.push(attach_lora(_base(size, torch.float32), models.lora(size), seed=0), 0.01), adapter)
        else:
            played = _conversations(VALIDATION)[:12]
            adapter = _seed_policy(Path(folder))
        policies = []
        for dtype in DTYPES:
            base = _base(size, dtype)
            policies.append(Policy(base, load_adapter(base, adapter), _features(size, dtype)))
        fast, exact = (exact_match(policy, played, count_illegal=False) for policy in policies)
        same = sum(fast.scores[key] == right for key, right in exact.scores.items())
        matches = f"sampled match {fast.sampled_match:.4f} and {exact.sampled_match:.4f}"
        return compare(
            "validation-precision",
            size,
            6 if size == "135m" else None,
            ours=partial(exact_match, policies[0], played, count_illegal=False),
            peer=partial(exact_match, policies[1], played, count_illegal=False),
            work=exact.n_turns,
            unit="turns/processor s",
            peer_name="fp32",
            bar=BAR,
            equality=f"{same} of {exact.n_turns} verdicts equal, {sum(exact.scores.values()):g} right; {matches}",
            repeats=repeats,
            warm_up=False,
            processor=True,
        )


def _seed_policy(folder: Path) -> Path:
    """Train the profile's own; return its last adapter."""
    profile = profiles.home()
    base, features = _base("home", torch.bfloat16), _features("home", torch.bfloat16)
    data = [Example(each, (1,) * len(each.turns)) for each in _conversations(D0)]
    config = profile.seed_training
    result = training.train(base, data, None, config, profile.lora, 0, folder / "seed", features=features)
    return result.checkpoints[-1].adapter
