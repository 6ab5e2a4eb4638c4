"""The trainers people would pick instead, on one example per turn, each at its fastest settings.

What is done for the peers: no gradient checkpointing (TRL's default costs a third more), pictures already at the size
the processor wants, the head on action tokens alone (TRL's fused head; the same by hand in the plain Trainer), rows in
the order of transformers' length grouping (also for KTO, which takes rows in the order given), no logging, no saving.
What stays as these trainers do it: a prompt is run for each of its game's turns, rows are padded on the CPU by TRL's
collator, dropout is torch's own; and pictures are processed and encoded in every step, unless `Kept` is asked for.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from peft.tuners.lora.layer import Linear
from PIL import Image
from torch import Tensor
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.utils import logging
from trl import KTOConfig, KTOTrainer, SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from respect_core.learning import objectives
from respect_core.model.base import Base, attach_lora, inner
from respect_core.model.chat import chat
from respect_core.model.lora import LeanLinear
from respect_core.model.text import TextProcessor
from respect_core.model.vision import VisionFeatures
from respect_core.scenarios.chat.scenario import SCENARIO as CHAT
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


@dataclass
class Kept:
    """The image processor and image features of a peer that keeps the frozen tower's outputs, as ours does.

    In its data a picture is a single pixel, whose colour is the picture's number. The connector, which is trained, runs
    once for each distinct picture of a batch: more than such a peer would do by itself.
    """

    features: VisionFeatures
    numbers: dict[str, int] = field(default_factory=dict)
    do_image_splitting: bool = False

    def picture(self, image: str) -> Image.Image:
        number = self.numbers.setdefault(image, len(self.numbers))
        return Image.new("RGB", (1, 1), tuple(number.to_bytes(3)))

    def __call__(self, images: Sequence[Sequence[Image.Image]], **_: Any) -> dict[str, Any]:
        return {"pixel_values": [[int.from_bytes(image.tobytes()) for image in row] for row in images]}

    def names(self, numbers_BI: Tensor) -> list[list[str]]:
        known = list(self.numbers)
        return [[known[number] for number in row] for row in numbers_BI.tolist()]

    def put_on(self, model: Any) -> Any:
        """The model, which finds these features where it would run its tower."""

        def get_image_features(pixel_values: Tensor, *_: Any, **__: Any) -> Any:
            return self.features.arguments(model, self.names(pixel_values))["mm_encoder_outputs"]["image"]

        inner(model).model.get_image_features = get_image_features
        return model

    def processor(self, processor: Any) -> Any:
        """A copy that asks for numbers, not pixels."""
        twin = copy.copy(processor)
        twin.image_processor = self
        return twin


def prompt_text(one: One, processor: Any) -> str:
    if isinstance(processor, TextProcessor):  # whose template writes the first token
        return chat(processor).render(CHAT.messages(one.asked), generate=True)
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
    """One row per turn, in the columns that TRL's trainers take; `length` counts tokens, a picture as one."""
    end = chat(base.processor).end_token
    texts = [prompt_text(one, base.processor) for one in ones]
    columns: dict[str, list[Any]] = {
        "prompt": texts,
        "completion": [f"{SPACE[base.scenario.free_text]}{one.action}{end}" for one in ones],
        "label": [one.label > 0 for one in ones],
        "length": [len(ids) for ids in base.processor.tokenizer(texts)["input_ids"]],
    }
    if not base.scenario.free_text:
        columns |= {
            "images": [[picture(image) for image in one.asked.context] for one in ones],
            "alternative": [f" {one.alternative}{end}" for one in ones],
            "probability": [one.probability for one in ones],
        }
    return Dataset.from_dict(columns)


SPACE = {True: "", False: " "}
"""Before an action; by whether it is any text."""


@dataclass
class Counting:
    """A collator that counts what passes through the language model."""

    collate: Any
    shape: Shape
    kept: Kept | None
    reference: bool  # a pass of the reference model too
    tokens: int = 0
    flops: float = 0.0

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        images = sum(len(row.get("images", ())) for row in rows)
        batch: dict[str, Any] = self.collate(rows)
        completion = batch["completion_mask"] if "completion_mask" in batch else batch["labels"] != IGNORED
        lengths = [batch["input_ids"].shape[1]] * len(rows)
        connected = len({*batch["pixel_values"].flatten().tolist()}) if self.kept else images
        seen = 0 if self.kept else images
        work = {"logits": int(completion.sum()), "connected": connected, "seen": seen}
        self.tokens += sum(lengths) * (2 if self.reference else 1)
        self.flops += self.shape.training(lengths, **work)
        self.flops += self.shape.forward(lengths, **work) if self.reference else 0.0
        if "KL_input_ids" in batch:
            mismatched = [batch["KL_input_ids"].shape[1]] * len(rows)
            self.tokens += 2 * sum(mismatched)
            self.flops += 2 * self.shape.forward(mismatched, **work)
        return batch


class PlainTrainer(Trainer):
    """The same loss as ours, one example per turn, with every term that the configuration has."""

    def __init__(self, *args: Any, config: TrainingConfig, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config = config

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Mean over the turns of the batch."""
        inputs, config = dict(inputs), self.config
        labels_BT, label_B, p_B = (inputs.pop(name) for name in ("labels", "label", "probability"))
        scores = span_scores(inner(model), inputs, labels_BT)
        smoothing: dict[str, Any] = {"label_smoothing": config.label_smoothing, "mean_logp_NS": scores.mean_logp}
        weight_B = torch.ones_like(p_B)
        if config.objective is Objective.FFT:
            loss_B = objectives.fft_loss(scores.logp, scores.mask, **smoothing)
        else:
            reward_B = objectives.rewards(label_B, config.negative_reward)
            weight_B = reward_B.abs()
            loss_B = objectives.rl_loss(
                scores.logp, scores.mask, reward_B, p_B, floor=config.propensity_floor, **smoothing
            )
        if config.entropy_weight:
            loss_B = loss_B + objectives.entropy_term(scores.entropy, scores.mask, config.entropy_weight * weight_B)
        return loss_B.mean()


class Scores(NamedTuple):
    """Of the labelled tokens, all [B, T - 1] and zero where `mask` is False."""

    mask: Tensor
    logp: Tensor
    entropy: Tensor
    mean_logp: Tensor


def span_scores(model: Any, inputs: dict[str, Any], labels_BT: Tensor) -> Scores:
    hidden_BTH = model.model(**inputs, use_cache=False).last_hidden_state
    targets_BT = labels_BT[:, 1:]
    mask_BT = targets_BT != IGNORED
    logp_MV = model.get_output_embeddings()(hidden_BTH[:, :-1][mask_BT]).log_softmax(-1)

    def spread(values_M: Tensor) -> Tensor:
        return values_M.new_zeros(mask_BT.shape).masked_scatter(mask_BT, values_M)

    logp_M = logp_MV.gather(1, targets_BT[mask_BT][:, None]).squeeze(1)
    return Scores(mask_BT, spread(logp_M), spread(-(logp_MV.exp() * logp_MV).sum(-1)), spread(logp_MV.mean(-1)))


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
    *,
    kept: Kept | None = None,
    grouped: bool = True,
) -> Any:
    """A trainer over the labelled turns of `data`, in steps of as many turns as ours.

    Args:
        kind: "sft", "kto" or "plain".
        batch: examples in one forward pass.
        picture: gives an image at the processor's size.
        kept: the tower's outputs, if it keeps them.
        grouped: whether rows of similar lengths meet.
    """
    ones = list(one_by_one(data))
    if config.objective is Objective.FFT:
        ones = [one for one in ones if one.label > 0]
    passes = max(1, config.batch_turns // batch)
    common: dict[str, Any] = {
        "output_dir": tempfile.gettempdir(),
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": passes,
        "num_train_epochs": 1,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "constant",
        "max_grad_norm": config.max_grad_norm,
        "gradient_checkpointing": False,
        "train_sampling_strategy": "sequential",
        "report_to": [],
        "logging_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": base.device.type == "cpu",
        "bf16": False,
        "remove_unused_columns": False,
    }
    rows = dataset(ones, base, kept.picture if kept else picture).shuffle(seed=0)
    if grouped:
        seeded = torch.Generator().manual_seed(0)
        rows = rows.select(get_length_grouped_indices(rows["length"], batch * passes, generator=seeded))
    processor = kept.processor(base.processor) if kept else base.processor
    model = stock_lora(base, lora)
    arguments: Any
    made: Any
    if kind == "sft":
        arguments = SFTConfig(**common, max_length=None, completion_only_loss=True)
        made = SFTTrainer(model, arguments, train_dataset=rows, processing_class=_stock(processor))
    elif kind == "kto":
        common |= {"desirable_weight": config.kto_desirable, "undesirable_weight": config.kto_undesirable}
        # Scenarios of free text name no alternatives, so that z0 is 0: TRL's name for KTO's loss without it.
        loss = "apo_zero_unpaired" if base.scenario.free_text else "kto"
        arguments = KTOConfig(**common, max_length=None, beta=config.kto_beta, loss_type=loss)
        made = KTOTrainer(model, args=arguments, train_dataset=rows, processing_class=_stock(processor))
    else:
        collate = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)
        arguments = TrainingArguments(**common)
        made = PlainTrainer(model, arguments, train_dataset=rows, data_collator=_WithRewards(collate), config=config)
    if kept:
        kept.put_on(made.model)
    made.data_collator = Counting(made.data_collator, Shape.of(base.model), kept, reference=kind == "kto")
    return made


def _stock(processor: Any) -> Any:
    """What TRL's trainers know: a tokenizer, where the base takes no images."""
    return processor.tokenizer if isinstance(processor, TextProcessor) else processor
