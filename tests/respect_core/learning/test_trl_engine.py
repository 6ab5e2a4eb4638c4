"""The engine `trl` against `packed`: the same losses, adapters, files and figures where the definitions agree."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy
from safetensors.torch import load_file
from text_bases import small_llama

from respect_core.acting.policy import Policy
from respect_core.interaction import Interaction, Turn
from respect_core.learning import trainer, trl_engine
from respect_core.learning.checkpoints import ResumeFile
from respect_core.learning.distributed import Processes
from respect_core.learning.gradients import TrainingError
from respect_core.learning.trainer import TrainingResult
from respect_core.model.base import Base, attach_lora, load_base, save_adapter
from respect_core.model.vision import VisionFeatures
from respect_core.profiles import chat
from respect_core.scenario import scenario
from respect_core.scenarios.chat import reply
from respect_core.training_data.sampling import Example
from respect_core.variants import Engine, LoraConfig, Objective, TrainingConfig

LORA = replace(chat().lora, dropout=0.0)


@cache
def base() -> Base:
    return load_base(small_llama(), scenario("chat"), device="cpu")


def conversations(*, negatives: bool) -> list[Example]:
    """Four conversations of two learned turns, with a reply to learn nothing from between them."""
    examples = []
    for number, room in enumerate(("attic", "hall", "kitchen", "cellar")):
        turns = (
            Turn(reply.state("You run a home."), f"turn on the lamp in the {room}", f"The lamp in the {room} is on."),
            Turn("", "and the radio", "I have no idea what a radio is."),
            Turn("", "bye", "Bye."),
        )
        examples.append(Example(Interaction(f"c{number}", (), turns), (1, -1 if negatives else None, 1)))
    return examples


def settings(objective: Objective, **changes: Any) -> TrainingConfig:
    """Two steps on all turns at once, a checkpoint after each."""
    plain = replace(
        chat().training[objective].on("trl"),
        learning_rate=1e-2,
        max_steps=2,
        checkpoint_every=1,
        warmup_steps=1,
        batch_turns=64,
        micro_batch_interactions=64,
        from_previous_adapter=True,
    )
    return replace(plain, **changes)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes the base."""
    return _adapter(tmp_path_factory.mktemp("start") / "adapter", LORA)


def _adapter(path: Path, lora: LoraConfig) -> Path:
    model = attach_lora(base(), lora, seed=7)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(0.1 * torch.randn_like(weight))
    save_adapter(model, path)
    return path


def run(engine: Engine, config: TrainingConfig, out: Path, start: Path | None, **options: Any) -> TrainingResult:
    train: Callable[..., TrainingResult] = trainer.train if engine == "packed" else trl_engine.train
    features, lora = VisionFeatures(base(), {}), options.pop("lora", LORA)
    data = options.pop("data", None) or conversations(negatives=config.objective is Objective.KTO)
    validate = options.pop("validate", None)
    config = replace(config, engine=engine)
    return train(base(), data, validate, config, lora, 0, out, features=features, init_adapter=start, **options)


def weights(result: TrainingResult) -> list[dict[str, torch.Tensor]]:
    return [load_file(each.adapter / "adapter_model.safetensors") for each in result.checkpoints]


def assert_same(packed: TrainingResult, trl: TrainingResult, *, scale: float = 1.0) -> None:
    """The same steps: losses and gradients (TRL's times `scale`), and adapters after each."""
    for ours, theirs in zip(packed.history, trl.history, strict=True):
        assert theirs.loss * scale == pytest.approx(ours.loss, rel=1e-4, abs=1e-6)
        assert theirs.grad_norm * scale == pytest.approx(ours.grad_norm, rel=1e-3)
        assert theirs.learning_rate == pytest.approx(ours.learning_rate)
        for name in ("step", "epoch", "positives", "negatives"):
            assert getattr(theirs, name) == getattr(ours, name)
    for ours, theirs in zip(weights(packed), weights(trl), strict=True):
        # The optimizers divide a gradient by its size plus 1e-8: where it is nearly zero, the unit of the loss counts.
        apart = torch.cat([(theirs[name] - ours[name]).abs().flatten() for name in ours])
        assert theirs.keys() == ours.keys() and apart.max() < 5e-3  # a step moves a weight by up to 1e-2
        assert (apart > 2e-5).float().mean() < 1e-2


@pytest.mark.parametrize("micro_batch", [64, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_fft_is_that_of_packed(micro_batch: int, smoothing: float, tmp_path: Path, start: Path) -> None:
    """The mean over tokens: the sum that `packed` takes without length normalisation, in other units."""
    config = settings(Objective.FFT, label_smoothing=smoothing, max_grad_norm=1e9)
    packed = run("packed", config, tmp_path / "packed", start)
    trl = run("trl", replace(config, micro_batch_interactions=micro_batch), tmp_path / "trl", start)
    rows = [trl_engine._row(base(), game, turn) for game in _games(config) for turn in game.kept]
    tokens = sum(label != -100 for row in rows for label in row["labels"])
    assert_same(packed, trl, scale=tokens / len(rows))
    assert trl.history[0].objective == trl.history[0].loss and trl.history[0].entropy > 0


def _games(config: TrainingConfig) -> Any:
    (_, batch), *_ = trainer.plan_steps(conversations(negatives=False), config, 0)
    return batch.games


def test_fft_of_actions_of_one_length_is_that_of_packed_with_normalisation(tmp_path: Path, start: Path) -> None:
    one = [replace(each, labels=(None, 1)) for each in conversations(negatives=False)]
    one = [replace(each, interaction=replace(each.interaction, turns=each.interaction.turns[:2])) for each in one]
    config = settings(Objective.FFT)
    packed = run("packed", replace(config, length_normalised=True), tmp_path / "packed", start, data=one)
    assert_same(packed, run("trl", config, tmp_path / "trl", start, data=one))


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_kto_is_that_of_packed(optimizer: str, tmp_path: Path, start: Path) -> None:
    """Chat names no alternatives: z0 is 0 in both."""
    config = settings(Objective.KTO, optimizer=optimizer, kto_beta=0.1)
    packed = run("packed", config, tmp_path / "packed", start)
    trl = run("trl", config, tmp_path / "trl", start)
    assert_same(packed, trl)
    for ours, theirs in zip(packed.history, trl.history, strict=True):
        assert theirs.log_ratio_positive == pytest.approx(ours.log_ratio_positive, abs=1e-4)
        assert theirs.log_ratio_negative == pytest.approx(ours.log_ratio_negative, abs=1e-4)
        assert theirs.z0 == 0
    assert abs(trl.history[1].log_ratio_positive or 0) > 1e-2


def test_kto_refers_to_the_whole_adapter(tmp_path: Path) -> None:
    """Embeddings' weights too, which TRL leaves out of its copy: before the first step, policy and reference agree."""
    lora = replace(LORA, targets=rf"({LORA.targets}|.*embed_tokens$)")
    start = _adapter(tmp_path / "start", lora)
    result = run("trl", settings(Objective.KTO, max_steps=1), tmp_path / "run", start, lora=lora)
    assert result.history[0].log_ratio_positive == pytest.approx(0, abs=1e-4)


def test_what_tools_answered_has_no_loss(tmp_path: Path) -> None:
    action = reply.written(
        [reply.Part("assistant", "I look."), reply.Part("tool", "dark"), reply.Part("assistant", "It is off.")]
    )
    game = replace(_games(settings(Objective.FFT))[0], labels=(1,))
    asked = replace(game.interaction, turns=(Turn("", "is it on?", action),))
    row = trl_engine._row(base(), replace(game, interaction=asked), 0)
    learned = [label for label in row["labels"] if label != -100]
    text = base().processor.tokenizer.decode(learned)
    assert "I look." in text and "It is off." in text and "dark" not in text
    assert all(label in (-100, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))
    assert row["labels"][-1] == row["input_ids"][-1]


def test_files_history_and_validation_are_in_the_same_places(tmp_path: Path, start: Path) -> None:
    held_out = [each.interaction for each in conversations(negatives=False)]
    before = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    told = copy.deepcopy((base().model.config.to_dict(), base().model.generation_config.to_dict()))
    calls: dict[str, list[tuple[int, int]]] = {"packed": [], "trl": []}
    found = {}
    for engine in ("packed", "trl"):

        def validate(model: Any) -> dict[str, float]:
            logp = Policy(base(), model, VisionFeatures(base(), {})).log_probabilities(held_out)
            return {"exact_match": 0.0, "logp": sum(map(sum, logp))}

        config = settings(Objective.FFT, checkpoint_every=2, max_steps=3)
        result = run(
            engine,
            config,
            tmp_path / engine,
            start,
            validate=validate,
            progress=lambda record, total, engine=engine: calls[engine].append((record.step, total)),
        )
        files = sorted(str(path.relative_to(tmp_path / engine)) for path in (tmp_path / engine).rglob("*"))
        lines = [json.loads(line) for line in (tmp_path / engine / "history.jsonl").read_text().splitlines()]
        found[engine] = (files, [line.get("checkpoint", line["step"]) for line in lines], [set(line) for line in lines])
        assert [point.adapter.name for point in result.checkpoints] == ["step-000000", "step-000002", "step-000003"]
        found[f"{engine} logp"] = [point.validation["logp"] for point in result.checkpoints]
        assert result.turns == 3 * 8 and 0 <= result.padding < 1 and result.turns_per_second > 0
    assert found["packed"] == found["trl"]
    assert calls["packed"] == calls["trl"] == [(1, 3), (2, 3), (3, 3)]
    assert found["trl logp"] == pytest.approx(found["packed logp"], rel=1e-3) and len(set(found["trl logp"])) == 3
    assert before == [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    assert told == (base().model.config.to_dict(), base().model.generation_config.to_dict())


@pytest.mark.parametrize("objective", [Objective.FFT, Objective.KTO])
def test_resumes_to_the_same_adapter(
    objective: Objective, tmp_path: Path, start: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = replace(LORA, dropout=0.2)
    config = settings(objective, checkpoint_every=2, max_steps=4, micro_batch_interactions=5)
    whole = run("trl", config, tmp_path / "whole", start, lora=lora)
    file = ResumeFile(tmp_path / "resume.pt", "key")

    def killed(record: Any, total: int) -> None:
        if record.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("trl", config, tmp_path / "run", start, lora=lora, resume=file, progress=killed)
    again = run("trl", config, tmp_path / "run", start, lora=lora, resume=file)
    assert [record.loss for record in again.history] == [record.loss for record in whole.history]
    for one, other in zip(weights(whole), weights(again), strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    done = run("trl", config, tmp_path / "run", start, lora=lora, resume=file)
    assert done.history == again.history
    assert capsys.readouterr().out == "", "standard output is the worker's, for its progress"


def test_rehearsed_turns_are_desirable_under_kto(tmp_path: Path, start: Path) -> None:
    data = conversations(negatives=True)
    data[0] = replace(data[0], labels=(1, None, 1), rehearsed=True)
    result = run("trl", settings(Objective.KTO), tmp_path, start, data=data)
    assert result.history[0].positives == 8 and result.history[0].rehearsal is None


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (settings(Objective.RL), "no trainer for REINFORCE"),
        (settings(Objective.FFT, entropy_weight=0.01), "entropy_weight"),
        (settings(Objective.FFT, length_normalised=True), "length_normalised"),
        (settings(Objective.KTO, label_smoothing=0.1, kto_reference="logged"), "label_smoothing.*reference"),
    ],
)
def test_refuses_what_trl_lacks(config: TrainingConfig, reason: str, tmp_path: Path, start: Path) -> None:
    with pytest.raises(ValueError, match=rf"{reason}.*train with the engine 'packed'"):
        run("trl", config, tmp_path, start)


def test_refuses_images_alternatives_and_several_processes(
    tmp_path: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="takes images"):
        trl_engine.train(
            toy.base(), toy.toy(), None, settings(Objective.FFT), LORA, 0, tmp_path, features=toy.features()
        )
    with pytest.raises(ValueError, match="in one process, not 2"):
        run("trl", settings(Objective.FFT), tmp_path, start, processes=Processes(0, 2))
    monkeypatch.setattr(type(base().scenario), "alternative", lambda *_: "Hm.")
    with pytest.raises(ValueError, match="alternative actions"):
        run("trl", settings(Objective.KTO), tmp_path, start)


def test_a_loss_that_is_not_a_number_ends_training(tmp_path: Path, start: Path) -> None:
    with pytest.raises(TrainingError, match=r"step 2.*c0.*lower the learning rate"):
        run("trl", settings(Objective.FFT, learning_rate=1e30), tmp_path, start)
