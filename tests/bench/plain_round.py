"""One round as plain function calls in one go: no store, no manifests, no MLflow, no Prefect; nothing resumes.

The same library functions as in the `round` flow, in the same order, on plain files. Decoding and training each run in
a process of its own as the flow's do, training with one thread.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa

from respect_core.log.records import InteractionLog, from_log, turn_rows
from respect_core.measuring.labels import right_turns
from respect_core.profiles import Profile
from respect_core.scenarios.multiref.scenario import SCENARIO
from respect_core.schemas import FEEDBACK_SCHEMA, TRAINING_SET_SCHEMA, TURNS_SCHEMA
from respect_core.training_data import eligibility, sampling
from respect_core.variants import Variant


@dataclass(frozen=True)
class Files:
    """What the round starts from; `images` has <image id>.png, `adapter` is for profiles that go on from one."""

    logs: Path
    d0: Path
    validation: Path
    images: Path
    adapter: Path


@dataclass(frozen=True)
class Learned:
    """The adapter chosen, its exact match on the validation turns, and how long the training process worked."""

    adapter: Path
    exact_match: float
    seconds_of_training: float


def plain_round(files: Files, profile: Profile, variant: Variant, out: Path) -> Learned:
    """Read logs, decode, subsample, train and validate, choose, save."""
    from respect_core.learning.validation import Candidate, ValidationResult, choose

    turns = _turns(_read(files.logs))
    with _process() as pool:
        decoded = pool.submit(_decode, turns, profile).result()
    people = _read(files.d0)
    batches = eligibility.training_batches(
        turns.to_batches(),
        decoded.to_batches(),
        _turns(people),
        variant,
        SCENARIO,
        deselection_ratio=profile.deselection_ratio,
        d0_right=frozenset(right_turns(people)),
    )
    table = pa.Table.from_batches(batches, TRAINING_SET_SCHEMA)
    found: dict[tuple[int, int], tuple[Path, dict[str, float]]] = {}
    seconds = 0.0
    with patch.dict(os.environ, OMP_NUM_THREADS="1"), _process() as pool:  # as `tasks.compute.process` does
        for seed in profile.seeds:
            checkpoints, took = pool.submit(_train, files, profile, variant, table, seed, out / f"seed={seed}").result()
            found |= {(seed, step): (adapter, figures) for step, adapter, figures in checkpoints}
            seconds += took
    chosen = choose(
        Candidate(seed, step, ValidationResult(each["exact_match"], each["sampled_match"], int(each["n_turns"]), 0, {}))
        for (seed, step), (_, each) in found.items()
    )
    shutil.copytree(found[chosen.seed, chosen.step][0], out / "chosen")
    return Learned(out / "chosen", chosen.result.exact_match, seconds)


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def _decode(turns: pa.Table, profile: Profile) -> pa.Table:
    """The feedback table; in the process of its own."""
    from respect_core.feedback import decoder as feedback

    decoder = feedback.FeedbackDecoder(feedback.named(profile.feedback_decoder))
    return pa.Table.from_pylist(decoder.decode(turns.to_pylist()), schema=FEEDBACK_SCHEMA)


def _train(
    files: Files, profile: Profile, variant: Variant, table: pa.Table, seed: int, out: Path
) -> tuple[list[tuple[int, Path, dict[str, float]]], float]:
    """Checkpoints as (step, adapter, figures), and seconds; in the process of its own."""
    import time

    from PIL import Image

    from respect_core.acting.policy import Policy
    from respect_core.learning import trainer
    from respect_core.learning.validation import exact_match
    from respect_core.model.base import load_base
    from respect_core.model.vision import VisionFeatures

    started = time.monotonic()
    base = load_base(profile.base, SCENARIO, image_size=profile.image_size)
    examples, people = sampling.examples(table), _read(files.validation)
    held_out, right = [from_log(log) for log in people], right_turns(people)
    used = {image for game in (*(each.interaction for each in examples), *held_out) for image in game.context}
    images = {image: Image.open(files.images / f"{image}.png") for image in sorted(used)}
    features = VisionFeatures(base, images, cache_dir=out / "vision")

    def validate(model: Any) -> dict[str, float]:
        result = exact_match(Policy(base, model, features), held_out, right)
        return {
            "exact_match": result.exact_match,
            "sampled_match": result.sampled_match,
            "n_turns": result.n_turns,
        }

    config = profile.training[variant.objective]
    start = files.adapter if config.from_previous_adapter else None
    result = trainer.train(
        base, examples, validate, config, profile.lora, seed, out, features=features, init_adapter=start
    )
    checkpoints = [(each.step, each.adapter, dict(each.validation)) for each in result.checkpoints]
    return checkpoints, time.monotonic() - started


def _read(file: Path) -> list[InteractionLog]:
    return [InteractionLog.model_validate_json(line) for line in file.read_bytes().splitlines()]


def _turns(logs: list[InteractionLog]) -> pa.Table:
    return pa.Table.from_pylist([row for log in logs for row in turn_rows(log)], schema=TURNS_SCHEMA)
