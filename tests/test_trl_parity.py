"""KTO and FFT against TRL's own trainers, on the batch that the trainer itself collates.

TRL 1.16 computes KTO's loss in `KTOTrainer._compute_loss` and the supervised one in `SFTTrainer.compute_loss`; both are
called here on a real trainer. Ours gets the same log-probabilities from a plain forward pass of the same model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM
from trl import KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

from respect_core import objectives
from respect_core.tiny.skeleton import tokenizer

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
