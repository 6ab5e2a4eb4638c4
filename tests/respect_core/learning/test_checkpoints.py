"""Training that is interrupted goes on where it was, and ends as if nothing had happened."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from safetensors.torch import load_file
from toy import CONFIGS, base, features, toy, validate

from respect_core.learning import batch_loss, gradients
from respect_core.learning.checkpoints import HISTORY, ResumeFile, StepRecord
from respect_core.learning.trainer import TrainingResult, train
from respect_core.model.base import adapter_hash, attach_lora, save_adapter
from respect_core.variants import LoraConfig, Objective

EVERY = 3


class Killed(BaseException):
    """Stands for the end of the process; tests/respect_core/learning/test_kill.py ends real ones."""


@pytest.fixture(scope="module")
def seed_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("seed") / "adapter"
    save_adapter(attach_lora(base(), LoraConfig(), seed=7), path)
    return path


def _train(
    name: str, out: Path, seed_adapter: Path, *, kill_after: int | None = None, key: str = "run", seed: int = 0
) -> tuple[TrainingResult | None, list[int]]:
    """The result (None when killed), and the steps that were made."""
    config, steps = CONFIGS[name], []

    def progress(record: StepRecord, total: int) -> None:
        steps.append(record.step)
        if record.step == kill_after:
            raise Killed

    try:
        result = train(
            base(),
            toy(negatives=config.objective is not Objective.FFT),
            validate,
            config,
            LoraConfig(),
            seed,
            out,
            features=features(),
            init_adapter=seed_adapter if config.from_previous_adapter else None,
            resume=ResumeFile(out / "resume.pt", key, EVERY),
            progress=progress,
        )
    except Killed:
        return None, steps
    return result, steps


def _outcome(result: TrainingResult | None, out: Path) -> Any:
    """All that a run leaves but its speed."""
    assert result is not None
    adapters = [adapter_hash(point.adapter) for point in result.checkpoints]
    figures = [(point.step, point.epoch, dict(point.validation)) for point in result.checkpoints]
    return result.history, adapters, figures, (out / HISTORY).read_text()


@pytest.fixture(scope="module", params=["fft", "kto"])
def undisturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, seed_adapter: Path
) -> Iterator[tuple[str, Any]]:
    out = tmp_path_factory.mktemp(request.param)
    result, steps = _train(request.param, out, seed_adapter)
    assert steps == list(range(1, 9))
    yield request.param, _outcome(result, out)


def test_interrupted_again_and_again_it_ends_the_same(
    undisturbed: tuple[str, Any], tmp_path: Path, seed_adapter: Path
) -> None:
    """Points are behind steps 3, 4 (a checkpoint), 6 and 8."""
    name, expected = undisturbed
    made = [_train(name, tmp_path, seed_adapter, kill_after=step)[1] for step in (2, 5, 6, 8)]
    assert made == [[1, 2], [1, 2, 3, 4, 5], [5, 6], [5, 6, 7, 8]]
    result, last = _train(name, tmp_path, seed_adapter)
    assert last == [7, 8]
    assert _outcome(result, tmp_path) == expected
    assert result is not None and result.seconds > 0


def test_what_is_finished_is_not_done_again(undisturbed: tuple[str, Any], tmp_path: Path, seed_adapter: Path) -> None:
    """The process may end between the last step and the moment its result is stored."""
    name, expected = undisturbed
    _train(name, tmp_path, seed_adapter)
    result, steps = _train(name, tmp_path, seed_adapter)
    assert steps == []
    assert _outcome(result, tmp_path) == expected


def test_a_point_of_another_run_is_left_alone(tmp_path: Path, seed_adapter: Path) -> None:
    _train("fft", tmp_path / "a", seed_adapter, kill_after=5)
    result, steps = _train("fft", tmp_path / "a", seed_adapter, key="other", seed=1)
    assert steps == list(range(1, 9))
    fresh, _ = _train("fft", tmp_path / "b", seed_adapter, seed=1)
    assert _outcome(result, tmp_path / "a") == _outcome(fresh, tmp_path / "b")


@pytest.mark.parametrize("content", [b"", b"half a file", None])
def test_a_broken_point_is_not_gone_on_from(content: bytes | None, tmp_path: Path, seed_adapter: Path) -> None:
    _train("fft", tmp_path, seed_adapter, kill_after=5)
    file = tmp_path / "resume.pt"
    file.write_bytes(file.read_bytes()[:-1000] if content is None else content)
    assert _train("fft", tmp_path, seed_adapter, kill_after=1)[1] == [1]


def test_a_point_that_would_run_code_is_refused(tmp_path: Path, seed_adapter: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"key": "run", "history": Trap()}, tmp_path / "resume.pt")
    assert _train("fft", tmp_path, seed_adapter, kill_after=1)[1] == [1]
    assert not (tmp_path / "ran").exists()


def test_without_a_resume_file_nothing_is_written(tmp_path: Path) -> None:
    config = replace(CONFIGS["fft"], max_steps=2)
    train(base(), toy(), None, config, LoraConfig(), 0, tmp_path, features=features())
    assert {path.name for path in tmp_path.iterdir()} == {HISTORY, "step-000002"}


# --- out of memory ----------------------------------------------------------------------------------------------


MakeRun = Callable[[int, str, Path], TrainingResult]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Trains on so many cores, eight games at once. Without dropout, whose draws differ."""
    start, lora = tmp_path_factory.mktemp("start"), LoraConfig(dropout=0.0)
    save_adapter(attach_lora(base(), lora, seed=7), start)

    def run(cores: int, name: str, folder: Path) -> TrainingResult:
        config = replace(CONFIGS[name], micro_batch_interactions=8, batch_turns=18, max_steps=4, checkpoint_every=2)
        asked = toy(12, negatives=config.objective is not Objective.FFT)
        given = start if config.from_previous_adapter else None
        with models.threads(cores):
            return train(base(), asked, None, config, lora, 0, folder, features=features(), init_adapter=given)

    return run


@pytest.fixture(scope="module")
def whole(run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str], TrainingResult]:
    """Such a training with room for all games, which is made once."""
    return cache(lambda cores, name: run(cores, name, tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("name", sorted(CONFIGS))
@pytest.mark.parametrize(("most", "passes_before"), [(1, 3), (2, 0)])
def test_out_of_memory_halves_the_micro_batch_and_keeps_the_gradient(
    cores: int,
    name: str,
    most: int,
    passes_before: int,
    run: MakeRun,
    whole: Callable[[int, str], TrainingResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Any,
) -> None:
    """A device that takes `most` games at once after some passes: from the start on, or in the middle of a step."""
    expected = whole(cores, name)
    real, passes = gradients.score, itertools.count()

    def limited(model: Any, batch: Any, *args: Any, **options: Any) -> Any:
        if next(passes) >= passes_before and batch.input_ids.shape[0] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore advice")
        return real(model, batch, *args, **options)

    monkeypatch.setattr(gradients, "score", limited)
    monkeypatch.setattr(batch_loss, "score", limited)
    halved = run(cores, name, tmp_path / "halved")
    used = [record.micro_batch for record in halved.history]
    assert used[-1] == most and used == sorted(used, reverse=True)
    assert "memory (CUDA out of memory. Tried to allocate 2 GiB.); continuing with 4 games at once" in caplog.text
    for one, other in zip(expected.history, halved.history, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-6)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-6)
    before, after = (_weights(each.checkpoints[-1].adapter) for each in (expected, halved))
    for key, weight in before.items():
        torch.testing.assert_close(after[key], weight, atol=1e-6, rtol=0)
    lines = [json.loads(line) for line in (tmp_path / "halved" / HISTORY).read_text().splitlines()]
    assert [line["micro_batch"] for line in lines if "loss" in line] == used


def test_a_single_game_that_does_not_fit_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("respect_core.learning.gradients.score", full)
    with pytest.raises(torch.OutOfMemoryError):
        train(base(), toy(), None, CONFIGS["fft"], LoraConfig(), 0, tmp_path, features=features())


def _weights(adapter: Path) -> dict[str, torch.Tensor]:
    return load_file(adapter / "adapter_model.safetensors")
