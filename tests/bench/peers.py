"""The trainers people would pick instead, on one example per turn, each at its fastest settings.

What is done for the peers: no gradient checkpointing (TRL's default costs a third more), pictures already at the size
the processor wants, the head on action tokens alone (TRL's fused head; the same by hand in the plain Trainer), no
logging, no saving. What stays as these trainers do it: a prompt is run for each of its game's turns, rows are padded
on the CPU by TRL's collator, pictures are processed and encoded in every step, dropout is torch's own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from datasets import Dataset
from peft.tuners.lora.layer import Linear
from PIL import Image
from torch import Tensor
from transformers import Trainer, TrainingArguments
from transformers.utils import logging
from trl import KTOConfig, KTOTrainer, SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from respect_core.learning import objectives
from respect_core.model.base import Base, attach_lora, inner
from respect_core.model.chat import chat
from respect_core.model.lora import LeanLinear
from respect_core.scenarios.multiref import prompt
from respect_core.training_data.sampling import Example
from respect_core.variants import LoraConfig, Objective, TrainingConfig
from tests.bench.flops import Shape
from tests.bench.games import One, one_by_one

logging.set_verbosity_error()
IGNORED = -100


def stock_lora(base: Base, lora: LoraConfig) -> Any:
    """The adapters of `attach_lora`, computed by PEFT's own layers."""
    model = attach_lora(base, lora, seed=0)
    for module in model.modules():
        if isinstance(module, LeanLinear):
            module.__class__ = Linear
    return model


Picture = Callable[[str], Image.Image]


@lru_cache(maxsize=4096)
def drawing(image: str) -> Image.Image:
    """A picture of the simulated world, resized as the processor itself would, which then finds nothing left to do."""
    from respect_core.scenarios.multiref.tiny_build.skeleton import PIXELS
    from tests.bench import models

    return models.pictures()[image].resize((PIXELS, PIXELS), Image.Resampling.BILINEAR)


def prompt_text(one: One, processor: Any) -> str:
    text = processor.apply_chat_template(prompt.messages(one.asked), add_generation_prompt=True)
    return f"{processor.tokenizer.bos_token}{text}"


def prompts(ones: Sequence[One], processor: Any) -> Any:
    """Inputs of `generate` for several turns, padded on the left."""
    return processor(
        text=[prompt_text(one, processor) for one in ones],
        images=[[drawing(image) for image in one.asked.context] for one in ones],
        padding=True,
        padding_side="left",
        add_special_tokens=False,  # the text has the first one
        return_tensors="pt",
    )


def dataset(ones: Sequence[One], base: Base, picture: Picture = drawing) -> Dataset:
    """One row per turn, in the columns that TRL's trainers take."""
    end = chat(base.processor).end_token
    return Dataset.from_dict(
        {
            "prompt": [prompt_text(one, base.processor) for one in ones],
            "completion": [f" {one.action}{end}" for one in ones],
            "images": [[picture(image) for image in one.asked.context] for one in ones],
            "alternative": [f" {one.alternative}{end}" for one in ones],
            "label": [one.label > 0 for one in ones],
            "probability": [one.probability for one in ones],
        }
    )


@dataclass
class Counting:
    """A collator that counts what passes through the language model."""

    collate: Any
    shape: Shape
    tokens: int = 0
    flops: float = 0.0

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        images = sum(len(row["images"]) for row in rows)
        batch: dict[str, Any] = self.collate(rows)
        completion = batch["completion_mask"] if "completion_mask" in batch else batch["labels"] != IGNORED
        lengths = [batch["input_ids"].shape[1]] * len(rows)
        work = {"logits": int(completion.sum()), "connected": images, "seen": images}
        self.tokens += sum(lengths)
        self.flops += self.shape.training(lengths, **work)
        if "KL_input_ids" in batch:
            mismatched = [batch["KL_input_ids"].shape[1]] * len(rows)
            self.tokens += 2 * sum(mismatched) + sum(lengths)
            self.flops += 2 * self.shape.forward(mismatched, **work) + self.shape.forward(lengths, **work)
        return batch


class PlainTrainer(Trainer):
    """The same loss as ours, one example per turn."""

    def __init__(self, *args: Any, config: TrainingConfig, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config = config

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Mean over the turns of the batch."""
        inputs = dict(inputs)
        labels_BT, label_B, p_B = (inputs.pop(name) for name in ("labels", "label", "probability"))
        logp_BT, mask_BT = span_scores(inner(model), inputs, labels_BT)
        if self.config.objective is Objective.FFT:
            loss_B = objectives.fft_loss(logp_BT, mask_BT)
        else:
            reward_B = objectives.rewards(label_B, self.config.negative_reward)
            loss_B = objectives.rl_loss(logp_BT, mask_BT, reward_B, p_B, floor=self.config.propensity_floor)
        return loss_B.mean()


def span_scores(model: Any, inputs: dict[str, Any], labels_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each labelled token, and the mask of those, both [B, T - 1]."""
    hidden_BTH = model.model(**inputs, use_cache=False).last_hidden_state
    targets_BT = labels_BT[:, 1:]
    mask_BT = targets_BT != IGNORED
    logp_MV = model.get_output_embeddings()(hidden_BTH[:, :-1][mask_BT]).log_softmax(-1)
    logp_M = logp_MV.gather(1, targets_BT[mask_BT][:, None]).squeeze(1)
    return logp_M.new_zeros(mask_BT.shape).masked_scatter(mask_BT, logp_M), mask_BT


@dataclass
class _WithRewards:
    """TRL's collator, with the columns of the loss beside its own."""

    collate: Any

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        extra = {
            "label": torch.tensor([1 if row["label"] else -1 for row in rows]),
            "probability": torch.tensor([row["probability"] for row in rows]),
        }
        return self.collate(rows) | extra


def trainer(
    kind: str,
    base: Base,
    data: Sequence[Example],
    config: TrainingConfig,
    lora: LoraConfig,
    batch: int,
    picture: Picture = drawing,
) -> Any:
    """A trainer over the labelled turns of `data`, one optimizer step over all of them.

    Args:
        kind: "sft", "kto" or "plain".
        batch: examples in one forward pass.
        picture: gives an image at the processor's size.
    """
    ones = list(one_by_one(data))
    if config.objective is Objective.FFT:
        ones = [one for one in ones if one.label > 0]
    common: dict[str, Any] = {
        "output_dir": tempfile.gettempdir(),
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": -(-len(ones) // batch),
        "num_train_epochs": 1,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "constant",
        "max_grad_norm": config.max_grad_norm,
        "gradient_checkpointing": False,
        "report_to": [],
        "logging_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": base.device.type == "cpu",
        "bf16": False,
        "remove_unused_columns": False,
    }
    rows = dataset(ones, base, picture)
    arguments: Any
    made: Any
    if kind == "sft":
        arguments = SFTConfig(**common, max_length=None, completion_only_loss=True)
        made = SFTTrainer(stock_lora(base, lora), arguments, train_dataset=rows, processing_class=base.processor)
    elif kind == "kto":
        common |= {"desirable_weight": config.kto_desirable, "undesirable_weight": config.kto_undesirable}
        arguments = KTOConfig(**common, max_length=None, beta=config.kto_beta, train_sampling_strategy="sequential")
        rows = rows.shuffle(seed=0)
        made = KTOTrainer(stock_lora(base, lora), args=arguments, train_dataset=rows, processing_class=base.processor)
    else:
        collate = DataCollatorForVisionLanguageModeling(base.processor, completion_only_loss=True)
        arguments = TrainingArguments(**common)
        made = PlainTrainer(
            stock_lora(base, lora), arguments, train_dataset=rows, data_collator=_WithRewards(collate), config=config
        )
    made.data_collator = Counting(made.data_collator, Shape.of(base.model))
    return made
