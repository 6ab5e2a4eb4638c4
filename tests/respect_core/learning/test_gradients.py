"""Passes of a batch on a core each: the gradient does not know how many there were, nor which was done first."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from toy import CONFIGS, base, features, toy

from respect_core.learning import gradients
from respect_core.learning.gradients import Gradients, find_references
from respect_core.learning.trainer import TrainingResult, plan_steps, train
from respect_core.model.base import adapter_hash, attach_lora
from respect_core.model.lora import draws_apart
from respect_core.variants import LoraConfig, Objective

NAMES = pytest.mark.parametrize("name", sorted(CONFIGS))


def _gradients(name: str, *, dropout: float, micro_batch: int = 4) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Of the first batch, under an adapter away from zero."""
    config = replace(CONFIGS[name], micro_batch_interactions=micro_batch, batch_turns=18)
    examples = toy(12, negatives=config.objective is not Objective.FFT)
    torch.manual_seed(0)
    model = attach_lora(base(), LoraConfig(dropout=dropout), seed=7).train()
    reference, size = find_references(base(), model, examples, config, features())
    with torch.no_grad():
        for weight in (weight for name, weight in model.named_parameters() if "lora_B" in name):
            weight.normal_(std=0.03)
    batch = plan_steps(examples, config, 0)[0][1]
    figures, _ = Gradients(base(), model, config, features(), reference).accumulate(batch, 1, size)
    return figures, {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@NAMES
@pytest.mark.parametrize("cores", [2, 3])
def test_as_many_passes_as_cores_give_the_gradient_of_one(name: str, cores: int) -> None:
    """Without dropout, whose draws differ."""
    with models.threads(1):
        figures, gradient = _gradients(name, dropout=0.0)
    with models.threads(cores):
        shared_figures, shared = _gradients(name, dropout=0.0)
    assert shared_figures["loss"] == pytest.approx(figures["loss"], abs=1e-6)
    assert shared_figures["tokens"] == figures["tokens"]
    assert shared_figures["padded_tokens"] <= figures["padded_tokens"]
    assert shared.keys() == gradient.keys() and any(value.abs().sum() > 0 for value in gradient.values())
    for key, expected in gradient.items():
        torch.testing.assert_close(shared[key], expected, atol=1e-6, rtol=1e-4)


@NAMES
def test_the_same_seed_gives_the_same_adapter_on_two_cores(name: str, tmp_path: Path) -> None:
    config = replace(CONFIGS[name], max_steps=3, from_previous_adapter=False)

    def run(folder: str) -> TrainingResult:
        return train(base(), toy(), None, config, LoraConfig(), 0, tmp_path / folder, features=features())

    with models.threads(2):
        hashes = {adapter_hash(run(str(number)).checkpoints[-1].adapter) for number in range(3)}
    assert len(hashes) == 1


def test_passes_run_beside_each_other_where_their_draws_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """And in this thread where a model has dropout of its own, whose draws would depend on who comes first."""
    real, seen = gradients.score, set()

    def score(*args: Any, **options: Any) -> Any:
        seen.add(threading.get_ident())
        return real(*args, **options)

    monkeypatch.setattr(gradients, "score", score)
    with models.threads(2):
        _gradients("fft", dropout=0.1)
        assert threading.get_ident() not in seen
        seen.clear()
        monkeypatch.setattr(gradients.lora, "draws_apart", lambda _: False)
        _gradients("fft", dropout=0.1)
    assert seen == {threading.get_ident()}


def test_dropout_that_is_not_a_lean_layers_is_found() -> None:
    model = attach_lora(base(), LoraConfig(dropout=0.1), seed=7)
    assert draws_apart(model)
    block = model.get_base_model().model.text_model.layers[0]
    block.mlp.dropout = torch.nn.Dropout(0.2)
    assert not draws_apart(model)
    block.mlp.dropout.p = 0.0
    assert draws_apart(model)
    block.self_attn.attention_dropout = 0.2
    assert not draws_apart(model)


@NAMES
def test_one_long_game_does_not_pad_the_others(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does KTO make a mask [games, tokens, tokens] of the long one's tokens for all."""
    examples, config = toy(8, negatives=name != "fft"), replace(CONFIGS[name], batch_turns=10**6)
    first = examples[0].interaction
    turns = (replace(first.turns[0], utterance="bird " * 900), *first.turns[1:])
    long = replace(examples[0], interaction=replace(first, interaction_id="long", turns=turns))
    shapes, real = [], gradients.collate

    def collate(rows: Any, pad: int) -> Any:
        packed = real(rows, pad)
        shapes.append(tuple(packed.input_ids.shape))
        return packed

    monkeypatch.setattr(gradients, "collate", collate)
    for data in (examples, [*examples, long]):
        torch.manual_seed(0)
        model = attach_lora(base(), LoraConfig(), seed=7).train()
        reference, size = find_references(base(), model, data, config, features())
        batch = plan_steps(data, config, 0)[0][1]
        Gradients(base(), model, config, features(), reference).accumulate(batch, 1, size)
    wide = [rows for rows, tokens in shapes if tokens > 900]
    assert wide and set(wide) == {1}
    assert max(tokens for _, tokens in shapes if tokens < 900) < 100
