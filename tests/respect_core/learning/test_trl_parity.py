"""KTO and FFT against TRL's own trainers, on the batch that the trainer itself collates.

TRL 1.16 computes KTO's loss in `KTOTrainer._compute_loss` and the supervised one in `SFTTrainer.compute_loss`; both are
called here on a real trainer. Ours gets the same log-probabilities from a plain forward pass of the same model.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM
from trl import KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

from respect_core.learning import batch_loss, objectives
from respect_core.model.packing import collate, score
from respect_core.scenarios.multiref.scenario import SCENARIO
from respect_core.scenarios.multiref.tiny_build.skeleton import tokenizer
from respect_core.training_data.sampling import Example, Game
from respect_core.variants import fft, kto

PROMPTS = ["a bird", "no undo that", "the tall one with a pointed head", "deselect all", "a fish", "wrong one"]
COMPLETIONS = ["select A", "deselect A", "select B C D", "deselect A B select J", "select F", "deselect F select A"]
LABELS = [True, False, True, False, True, True]


def _model(seed: int, vocabulary: int) -> MistralForCausalLM:
    torch.manual_seed(seed)
    config = MistralConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=None,
        initializer_range=0.3,  # far from uniform, so that a wrong sign or sum shows
    )
    return MistralForCausalLM(config).eval()


def _spans(model: MistralForCausalLM, ids: Tensor, attention: Tensor, completion: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each next token and the mask of those that belong to the completion, each [N, T - 1]."""
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=attention).logits[:, :-1]
    return logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0], completion[:, 1:].bool()


def _common(tmp_path: Path) -> dict[str, Any]:
    return {
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": len(PROMPTS),
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "max_length": None,
    }


@pytest.mark.parametrize("loss_weights", [(1.0, 1.0), (4.0, 1.0)])
def test_kto_equals_trl(tmp_path: Path, loss_weights: tuple[float, float]) -> None:
    vocabulary = tokenizer()
    policy, reference = _model(0, len(vocabulary)), _model(1, len(vocabulary))
    desirable, undesirable = loss_weights
    trainer = KTOTrainer(
        model=policy,
        ref_model=reference,
        args=KTOConfig(**_common(tmp_path), beta=0.5, desirable_weight=desirable, undesirable_weight=undesirable),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS, "completion": COMPLETIONS, "label": LABELS}),
        processing_class=vocabulary,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.eval()
    theirs = trainer.compute_loss(trainer.model, batch).item()
    their_kl = trainer._metrics["eval"]["kl"][-1]

    span = [batch[name] for name in ("input_ids", "attention_mask", "completion_mask")]
    mismatched = [batch[f"KL_{name}"] for name in ("input_ids", "attention_mask", "completion_mask")]
    kl = objectives.kto_kl(
        *_spans(policy, *mismatched), objectives.span_total(*_spans(reference, *mismatched)), length_normalised=False
    )
    loss = objectives.kto_loss(
        *_spans(policy, *span),
        objectives.span_total(*_spans(reference, *span)),
        batch["label"],
        kl,
        beta=0.5,
        desirable=desirable,
        undesirable=undesirable,
        length_normalised=False,
    )
    assert kl.item() == pytest.approx(their_kl, abs=1e-5)
    assert objectives.batch_loss(loss, turns=len(PROMPTS)).item() == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("better", [True, False])
def test_kto_equals_trl_on_either_side_of_the_clamp(tmp_path: Path, better: bool) -> None:
    """z0 is above zero with one order of the two models and clamped to zero with the other: its mean changes sign."""
    vocabulary = tokenizer()
    models = [_model(0, len(vocabulary)), _model(1, len(vocabulary))]
    trainer = KTOTrainer(
        model=models[better],
        ref_model=models[not better],
        args=KTOConfig(**_common(tmp_path), beta=0.1),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS, "completion": COMPLETIONS, "label": LABELS}),
        processing_class=vocabulary,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.eval()
    trainer.compute_loss(trainer.model, batch)
    mismatched = [batch[f"KL_{name}"] for name in ("input_ids", "attention_mask", "completion_mask")]
    logp, mask = _spans(models[better], *mismatched)
    reference = objectives.span_total(*_spans(models[not better], *mismatched))
    kl = objectives.kto_kl(logp, mask, reference, length_normalised=False).item()
    assert kl == pytest.approx(trainer._metrics["eval"]["kl"][-1], abs=1e-5)


def test_fft_equals_trl(tmp_path: Path) -> None:
    """SFTTrainer takes the mean over the tokens of the batch: ours without length normalisation, divided by them.

    With one turn a batch it is ours with length normalisation.
    """
    vocabulary = tokenizer()
    model = _model(0, len(vocabulary))
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**_common(tmp_path), completion_only_loss=True),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS, "completion": COMPLETIONS}),
        processing_class=vocabulary,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.eval()
    completion = (batch["labels"] != -100).long()
    logp, mask = _spans(model, batch["input_ids"], batch["attention_mask"], completion)
    theirs = trainer.compute_loss(trainer.model, dict(batch)).item()
    ours = objectives.fft_loss(logp, mask, length_normalised=False).sum() / mask.sum()
    assert ours.item() == pytest.approx(theirs, abs=1e-5)
    per_turn = objectives.fft_loss(logp, mask)
    for turn in range(len(PROMPTS)):
        alone = {name: value[turn : turn + 1] for name, value in batch.items()}
        assert per_turn[turn].item() == pytest.approx(trainer.compute_loss(trainer.model, alone).item(), abs=1e-5)


# --- games with pictures ----------------------------------------------------------------------------------------

GAMES = [models.game(seed, turns=3, n_images=4) for seed in (1, 2)]
GAME_LABELS = [(1, -1, 1), (-1, 1, None)]
KEPT = [
    (game, turn, label)
    for game, labels in zip(GAMES, GAME_LABELS, strict=True)
    for turn, label in enumerate(labels)
    if label is not None
]


def _per_turn(actions: list[str], prefix: str = "") -> dict[str, Tensor]:
    """One example per kept turn through the stock processor, with the given actions, padded on the right."""
    processor = models.base().processor
    rows, masks = [], []
    for (game, turn, _), action in zip(KEPT, actions, strict=True):
        prompt = models.stock_inputs(models.asked(game, turn), processor, generate=True)["input_ids"][0]
        answer = processor.tokenizer(f"{action}<end_of_utterance>", add_special_tokens=False, return_tensors="pt")
        rows.append(torch.cat([prompt, answer["input_ids"][0]]))
        masks.append(torch.cat([torch.zeros_like(prompt), torch.ones_like(answer["input_ids"][0])]))

    def padded(values: list[Tensor], padding: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=padding)

    return {
        f"{prefix}input_ids": padded(rows, processor.tokenizer.pad_token_id),
        f"{prefix}attention_mask": padded([torch.ones_like(row) for row in rows], 0),
        f"{prefix}completion_mask": padded(masks, 0),
    }


def _pictures() -> dict[str, Tensor]:
    inputs = [models.stock_inputs(models.asked(game, turn), models.base().processor) for game, turn, _ in KEPT]
    return {name: torch.cat([each[name] for each in inputs]) for name in ("pixel_values", "pixel_attention_mask")}


def _logged() -> list[str]:
    return [str(game.turns[turn].action) for game, turn, _ in KEPT]


def _packed_games() -> dict[str, Game]:
    identity = tuple(range(4))
    return {game.interaction_id: Game(game, labels, identity) for game, labels in zip(GAMES, GAME_LABELS, strict=True)}


def test_packed_kto_equals_trl_on_one_example_per_turn(tmp_path: Path) -> None:
    """Policy, alternatives and references of two packed games: the loss and z0 of KTOTrainer, which runs 4 passes."""
    config = replace(kto(), kto_reference="initial", entropy_weight=0.0, kto_desirable=2.0)
    base = models.base()
    model = models.random_lora()
    trainer = KTOTrainer(
        model=model,
        args=KTOConfig(**_common(tmp_path), beta=config.kto_beta, desirable_weight=config.kto_desirable),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS, "completion": COMPLETIONS, "label": LABELS}),
        processing_class=base.processor,
    )
    # The trainer's reference is a copy of the adapter as it was; ours is scored before the adapter changes.
    model.eval()
    examples = [Example(game, labels) for game, labels in zip(GAMES, GAME_LABELS, strict=True)]
    reference = batch_loss.references(model, examples, base, models.features(), config)
    games = _packed_games()
    batch = collate(
        [batch_loss.encode_game(game, base, config) for game in games.values()],
        base.processor.tokenizer.pad_token_id,
    )
    # A step that makes every action more likely, alternatives included, so that z0 is above 0.
    score(model, batch, models.features()).logp.sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter += 1e-3 * parameter.grad

    others = [SCENARIO.alternative(game, turn) for game, turn, _ in KEPT]
    per_turn = _per_turn(_logged()) | _per_turn([str(other) for other in others], "KL_") | _pictures()
    per_turn["label"] = torch.tensor([label > 0 for *_, label in KEPT])
    theirs = trainer.compute_loss(trainer.model, per_turn).item()

    with torch.no_grad():
        scores = score(model, batch, models.features())
        loss = batch_loss.turn_losses(scores, games, config, reference).loss
    ratios = [scores.logp[n].sum().item() - reference[key] for n, key in enumerate(scores.keys) if key.alternative]
    assert max(0.0, sum(ratios) / len(ratios)) == pytest.approx(trainer._metrics["eval"]["kl"][-1], abs=1e-5)
    assert trainer._metrics["eval"]["kl"][-1] > 0
    assert objectives.batch_loss(loss, turns=len(KEPT)).item() == pytest.approx(theirs, abs=1e-5)


def test_packed_fft_equals_trl_on_one_example_per_turn(tmp_path: Path) -> None:
    """The mean over the tokens of two packed games is the loss of SFTTrainer, gradients of the adapter included."""
    config = replace(fft(), length_normalised=False, entropy_weight=0.0, label_smoothing=0.0)
    base = models.base()
    model = models.random_lora()
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**_common(tmp_path), completion_only_loss=True),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS, "completion": COMPLETIONS}),
        processing_class=base.processor,
    )
    model.eval()
    batch = _per_turn(_logged()) | _pictures()
    completion = batch.pop("completion_mask")
    batch["labels"] = batch["input_ids"].masked_fill(completion == 0, -100)

    def gradients(loss: Tensor) -> list[Tensor]:
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return list(torch.autograd.grad(loss, trainable))

    theirs = trainer.compute_loss(trainer.model, batch)
    games = _packed_games()
    rows = [batch_loss.encode_game(game, base, config) for game in games.values()]
    scores = score(model, collate(rows, base.processor.tokenizer.pad_token_id), models.features())
    ours = batch_loss.turn_losses(scores, games, config, {}).loss.sum() / scores.mask.sum()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    for own, other in zip(gradients(ours), gradients(theirs), strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-3)
