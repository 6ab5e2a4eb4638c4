"""Train the second stage: the text model learns to read the game, on pictures whose latents are computed once.

The hard part is to match in context: from a description to one of ten pictures to its letter. Language modelling
alone stays at chance for long, so three attention heads are shown where to look (their maps enter the loss with a
weight that decays, in training only):

1. first layer: a letter looks at the latents of its picture;
2. second layer: the rows that have to name a letter look at the words of the description;
3. third layer: they look at the letter of the picture described.

The rows of description words must also predict the letter, at the end and directly after the third layer, which makes
every word a training case.

Legend: B sequences, T tokens, H heads, R rows, L latents, D width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import Idefics2ForConditionalGeneration

from respect_core.scenarios.multiref.actions import LETTERS
from respect_core.scenarios.multiref.tiny_build import see, skeleton
from respect_core.scenarios.multiref.tiny_build.lessons import IGNORE, Lesson, Teacher, collate, letter_position

LOOK_AT_PICTURE, LOOK_AT_WORDS, LOOK_AT_LETTER = 0, 1, 2  # layers
HEADS = 2  # in each of these layers, those that are shown where to look


@dataclass(frozen=True)
class Phase:
    """A phase of training. `games`: share of lessons that are games; the rest are questions."""

    name: str
    steps: int
    batch: int
    images: tuple[int, ...]
    turns: int
    games: float
    rate: float
    guidance: tuple[float, float]  # weight of the attention losses at the start and at the end
    final_rate: float = 0.1  # final rate as a share of the initial one
    layers: int | None = None  # run and train this many only; drills on attention alone


@torch.no_grad()
def prepare(model: Idefics2ForConditionalGeneration, seed: int = 0) -> None:
    """Draw random value and output projections for the gathering layers that keep the scale of their input.

    The stock initialisation (standard deviation 0.02) shrinks it more than tenfold, and what is gathered cannot be
    matched.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in (LOOK_AT_PICTURE, LOOK_AT_WORDS, LOOK_AT_LETTER):
        attention = model.model.text_model.layers[layer].self_attn
        for projection in (attention.v_proj, attention.o_proj):
            projection.weight.normal_(std=0.07, generator=generator)


@torch.no_grad()
def latents_of(model: Idefics2ForConditionalGeneration, pixels: np.ndarray) -> torch.Tensor:
    """Compute connector outputs [V, L, D] of all pictures."""
    return torch.cat(
        [see.tower_and_latents(model, torch.from_numpy(pixels[i : i + 500]))[1] for i in range(0, len(pixels), 500)]
    )


def embedded(model: Idefics2ForConditionalGeneration, ids_BT: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Embed ids as [B, T, D], with the image tokens replaced by latents [B * N * L, D] in order."""
    embeds = model.get_input_embeddings()(ids_BT)
    at = (ids_BT == model.config.image_token_id)[..., None].expand_as(embeds)
    return embeds.masked_scatter(at, latents)


def _rows(lessons: Sequence[Lesson], which: str) -> tuple[torch.Tensor, torch.Tensor, list[object]]:
    """Return sequence and row indices of `seek` or `words`, and the entries of each."""
    flat = [(i, row, entry) for i, lesson in enumerate(lessons) for row, entry in getattr(lesson, which)]
    return torch.tensor([x[0] for x in flat]), torch.tensor([x[1] for x in flat]), [x[2] for x in flat]


def _mass(
    attention_BHTT: torch.Tensor, sequences: torch.Tensor, rows: torch.Tensor, mask_RT: torch.Tensor
) -> torch.Tensor:
    """Sum the attention [R, HEADS] of the guided heads from each row over the masked positions."""
    picked_RHT = attention_BHTT[sequences, :HEADS, rows]
    return (picked_RHT * mask_RT[:, None]).sum(-1)


def guidance(lessons: Sequence[Lesson], attentions: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Compute the three attention losses, and the seeking rows' mean attention on the right letter."""
    length = attentions[0].shape[-1]
    flat = [(i, n) for i, lesson in enumerate(lessons) for n in range(len(lesson.images))]
    sequences = torch.tensor([i for i, _ in flat])
    letters = torch.tensor([letter_position(n) for _, n in flat])
    own = torch.zeros(len(flat), length)
    for back in range(2, 2 + skeleton.LATENTS):
        own[torch.arange(len(flat)), letters - back] = 1
    picture = -_mass(attentions[LOOK_AT_PICTURE], sequences, letters, own).clamp(min=1e-6).log().mean()

    sequences, rows, places = _rows(lessons, "words")
    word_weights = torch.zeros(len(rows), length)
    for r, words in enumerate(places):
        word_weights[r, words] = 1 / len(words)  # type: ignore[index, arg-type]
    log_attention = attentions[LOOK_AT_WORDS][sequences, :HEADS, rows].clamp(min=1e-6).log()
    entropy = -(word_weights * word_weights.clamp(min=1e-9).log()).sum(-1).mean()
    words_loss = -(log_attention * word_weights[:, None]).sum(-1).mean() - entropy

    sequences, rows, letters_of_rows = _rows(lessons, "seek")
    right = torch.zeros(len(rows), length)
    for r, names in enumerate(letters_of_rows):
        right[r, [letter_position(LETTERS.index(x)) for x in names]] = 1  # type: ignore[attr-defined]
    on_letter = _mass(attentions[LOOK_AT_LETTER], sequences, rows, right)
    return picture, words_loss, -on_letter.clamp(min=1e-6).log().mean(), on_letter.mean().detach()


def losses(
    model: Idefics2ForConditionalGeneration, teacher: Teacher, latents: torch.Tensor, lessons: Sequence[Lesson]
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
    """Compute the cross-entropy of the actions, that of the letter at the description's words, and `guidance`."""
    ids, labels, images = collate(list(lessons), teacher.tokenizer.pad_token_id)
    chosen = torch.cat([latents[torch.from_numpy(row)].flatten(0, 1) for row in images])
    out = model.model.text_model(
        inputs_embeds=embedded(model, ids, chosen), output_attentions=True, output_hidden_states=True, use_cache=False
    )
    if len(out.attentions) < len(model.model.text_model.layers):
        return torch.zeros(()), torch.zeros(()), guidance(lessons, out.attentions)
    has_label = labels != IGNORE
    action = F.cross_entropy(model.lm_head(out.last_hidden_state[has_label]), labels[has_label])
    sequences, rows, letters = _rows(lessons, "seek")
    letter_ids = torch.tensor([teacher.letters[names[0]] for names in letters])  # type: ignore[index]
    # The letter has to be predicted at the end, and directly after the layer that looks at it.
    early = model.model.text_model.norm(out.hidden_states[LOOK_AT_LETTER + 1][sequences, rows])
    words = F.cross_entropy(model.lm_head(out.last_hidden_state[sequences, rows]), letter_ids)
    words = 0.5 * words + 0.5 * F.cross_entropy(model.lm_head(early), letter_ids)
    return action, words, guidance(lessons, out.attentions)


def _lesson(teacher: Teacher, n_images: int, phase: Phase) -> Lesson:
    if phase.layers is not None:
        return teacher.drill(n_images, phase.turns)
    if teacher.rng.random() < phase.games:
        return teacher.game(n_images, phase.turns)
    return teacher.questions(n_images, phase.turns)


@torch.no_grad()
def exam(
    model: Idefics2ForConditionalGeneration, teacher: Teacher, latents: torch.Tensor, lessons: Sequence[Lesson]
) -> dict[str, float]:
    """Measure teacher-forced accuracy of whole actions and of letters that a description asks for."""
    whole, letters = [], []
    for i in range(0, len(lessons), 20):
        part = list(lessons[i : i + 20])
        ids, labels, images = collate(part, teacher.tokenizer.pad_token_id)
        chosen = torch.cat([latents[torch.from_numpy(row)].flatten(0, 1) for row in images])
        hidden = model.model.text_model(inputs_embeds=embedded(model, ids, chosen), use_cache=False).last_hidden_state
        right = (model.lm_head(hidden).argmax(-1) == labels) | (labels == IGNORE)
        for b, lesson in enumerate(part):
            letters += [right[b, row].item() for row, _ in lesson.seek if labels[b, row] != IGNORE]
            starts = [t for t in range(len(lesson.ids)) if lesson.ids[t] == teacher.assistant] + [len(lesson.ids)]
            whole += [right[b, s:e].all().item() for s, e in pairwise(starts)]
    return {"action": float(np.mean(whole)), "letter": float(np.mean(letters))}


def _parameter_groups(model: Idefics2ForConditionalGeneration, phase: Phase) -> list[dict[str, Any]]:
    """Group the parameters to train, with their rates.

    A drill trains only attention: while gradients are noise, Adam's steps have full length, and everything trained
    drifts until it drowns what is gathered.
    """
    text = model.model.text_model
    if phase.layers is not None:
        attentions = [layer.self_attn for layer in text.layers[: phase.layers]]
        looks = [p for attention in attentions for p in (attention.q_proj.weight, attention.k_proj.weight)]
        carries = [p for attention in attentions for p in (attention.v_proj.weight, attention.o_proj.weight)]
        return [{"params": looks, "lr": phase.rate}, {"params": carries, "lr": phase.rate * 0.1}]
    drilled = [p for layer in text.layers[: LOOK_AT_LETTER + 1] for p in layer.parameters()]
    above = [p for layer in text.layers[LOOK_AT_LETTER + 1 :] for p in layer.parameters()]
    return [
        {"params": [*above, *text.norm.parameters()], "lr": phase.rate},
        {"params": list(model.lm_head.parameters()), "lr": phase.rate * 3},
        {"params": drilled, "lr": phase.rate * 0.3},
        {"params": [text.embed_tokens.weight], "lr": phase.rate * 0.1, "weight_decay": 0.0},
    ]


def train(
    model: Idefics2ForConditionalGeneration,
    teacher: Teacher,
    latents: torch.Tensor,
    phase: Phase,
    exams: dict[str, tuple[Teacher, torch.Tensor, list[Lesson]]],
    *,
    save: Path,
    log: Callable[[str], None] = print,
) -> None:
    """Train the text model through one phase, in place, and update the checkpoint at `save` every 100 steps."""
    torch.manual_seed(0)
    model.set_attn_implementation("eager")
    text = model.model.text_model
    groups = _parameter_groups(model, phase)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.02)

    def rate(step: int) -> float:
        warm = min(1.0, (step + 1) / 40)
        cosine = 0.5 * (1 + np.cos(np.pi * step / phase.steps))
        return float(warm * (phase.final_rate + (1 - phase.final_rate) * cosine))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    start = time.perf_counter()
    recent: list[list[float]] = []
    text.config.num_hidden_layers = phase.layers or len(text.layers)
    for step in range(1, phase.steps + 1):
        n = teacher.rng.choice(phase.images)
        lessons = [_lesson(teacher, n, phase) for _ in range(phase.batch)]
        action, words, (picture, look_words, letter, mass) = losses(model, teacher, latents, lessons)
        weight = phase.guidance[0] + (phase.guidance[1] - phase.guidance[0]) * step / phase.steps
        (action + 0.5 * words + weight * (picture + 0.5 * look_words + letter)).backward()
        nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        recent.append([x.item() for x in (action, words, picture, look_words, letter, mass)])
        if step % (25 if phase.layers else 50) == 0 or step == phase.steps:
            means = np.mean(recent, axis=0)
            recent = []
            names = ("action", "words", "look-picture", "look-words", "look-letter", "mass")
            line = " ".join(f"{name} {value:.3f}" for name, value in zip(names, means, strict=True))
            marks = ""
            if phase.layers is None and (step % 100 == 0 or step == phase.steps):
                for name, (examiner, own, lessons) in exams.items():
                    marks += "".join(f" {name}-{k} {v:.3f}" for k, v in exam(model, examiner, own, lessons).items())
                model.save_pretrained(save)
            log(f"{phase.name} step {step} {line}{marks} seconds {time.perf_counter() - start:.0f}")
    text.config.num_hidden_layers = len(text.layers)
