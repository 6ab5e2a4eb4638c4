"""Train the first stage: the vision tower and connector learn to see, with pictures close to the words that fit them.

A picture's latents, averaged, are scored against the embeddings of all lexicon words: a fitting word scores high
(sigmoid loss). An auxiliary head exists in training only: a linear head on the tower's averaged patches, for the
attributes.

Legend: B pictures, L latents, D text width, W words, A attribute values, P patches.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import Idefics2ForConditionalGeneration, PreTrainedTokenizerFast

from respect_core.scenarios.multiref.dialects import VALUES
from respect_core.scenarios.multiref.tiny_build import senses, skeleton
from respect_core.scenarios.multiref.tiny_build.pictures import Pictures


def tower_and_latents(
    model: Idefics2ForConditionalGeneration, pixels_B48: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the tower's patches [B, P, width] and the connector's latents [B, L, D] of one-channel pixels."""
    pixels = pixels_B48[:, None].expand(-1, 3, -1, -1)
    side = skeleton.PIXELS // skeleton.PATCH
    mask = torch.ones(len(pixels), side, side, dtype=torch.bool)
    patches_BPV = model.model.vision_model(pixel_values=pixels, patch_attention_mask=mask).last_hidden_state
    return patches_BPV, model.model.connector(patches_BPV, attention_mask=mask.flatten(1))


def _masked_bce(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute binary cross-entropy where labels are 0 or 1, ignoring -1."""
    loss = F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0).float(), reduction="none")
    labelled = labels >= 0
    return (loss * labelled).sum() / labelled.sum()


def accuracy(
    model: Idefics2ForConditionalGeneration,
    word_ids: torch.Tensor,
    bias: torch.Tensor,
    test: Pictures,
    table: dict[str, tuple[list[int], list[float]]],
) -> float:
    """Compute the balanced accuracy of whether a word fits a picture, averaged over technical words."""
    with torch.no_grad():
        latents = torch.cat(
            [tower_and_latents(model, torch.from_numpy(test.pixels[i : i + 500]))[1] for i in range(0, len(test), 500)]
        )
        scores = latents.mean(1) @ model.get_input_embeddings().weight[word_ids].T / 14 + bias
    rates = []
    for column, (indices, _) in enumerate(table.values()):
        if len(indices) == 1:
            label = torch.from_numpy(test.labels[:, indices[0]])
            hits = ((scores[:, column] > 0) == (label == 1)).float()
            rates.append((hits[label == 1].mean() + hits[label == 0].mean()).item() / 2)
    return float(np.mean(rates))


def train(
    model: Idefics2ForConditionalGeneration,
    vocabulary: PreTrainedTokenizerFast,
    data: Pictures,
    test: Pictures,
    *,
    steps: int,
    batch: int = 128,
    rate: float = 2e-3,
    seed: int = 0,
    log: Callable[[str], None] = print,
) -> None:
    """Train tower, connector and the lexicon's word embeddings in place."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    table = senses.senses()
    word_ids = torch.tensor(vocabulary.convert_tokens_to_ids(list(table)))
    head = nn.Linear(128, len(VALUES))
    bias = nn.Parameter(torch.full((len(table),), -1.0))
    embeddings = model.get_input_embeddings().weight
    weights = [*model.model.vision_model.parameters(), *model.model.connector.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": weights, "weight_decay": 0.02}, {"params": [embeddings, bias], "weight_decay": 0.0}],
        lr=rate,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    start = time.perf_counter()
    order: list[int] = []
    for step in range(1, steps + 1):
        if len(order) < batch:
            order = rng.permutation(len(data)).tolist()
        chosen = [order.pop() for _ in range(batch)]
        labels_BA = torch.from_numpy(data.labels[chosen])
        patches, latents = tower_and_latents(model, torch.from_numpy(data.pixels[chosen]))
        scores_BW = latents.mean(1) @ embeddings[word_ids].T / 14 + bias
        word_loss = _masked_bce(scores_BW, labels_BA[:, torch.from_numpy(senses.sample_senses(table, rng))])
        attribute_loss = _masked_bce(head(patches.mean(1)), labels_BA)
        (word_loss + 0.5 * attribute_loss).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0 or step == steps:
            right = accuracy(model, word_ids, bias, test, table)
            log(
                f"see step {step} aligned {word_loss.item():.4f} seen {attribute_loss.item():.4f} "
                f"accuracy {right:.4f} seconds {time.perf_counter() - start:.0f}"
            )
