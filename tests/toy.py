"""A model small enough to learn a toy by heart in seconds, and the toy."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import lru_cache
from typing import Any

import models
import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import (
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics2Processor,
    MistralConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.idefics2.configuration_idefics2 import Idefics2PerceiverConfig, Idefics2VisionConfig
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

from respect_core.acting.policy import Policy
from respect_core.interaction import Interaction, Turn
from respect_core.learning.validation import exact_match
from respect_core.model.base import Base, load_base
from respect_core.model.vision import VisionFeatures
from respect_core.scenarios.multiref import actions
from respect_core.scenarios.multiref.scenario import SCENARIO
from respect_core.scenarios.multiref.tiny_build import skeleton
from respect_core.training_data.sampling import Example
from respect_core.variants import TrainingConfig, fft, kto, rl


def processor() -> Idefics2Processor:
    """Words of the toy alone, so that the reference curves do not move with the tiny model's vocabulary."""
    special = ["<unk>", "<s>", "</s>", "<pad>", "<end_of_utterance>", "<fake_token_around_image>", "<image>"]
    roles = ["System:", "User:", "Assistant:"]
    words = ["a", "bird", "all", "undo", "nothing", "none", "is", "selected", "currently", "select", "deselect"]
    vocabulary = {token: index for index, token in enumerate([*special, *roles, *actions.LETTERS, *words])}
    fast = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast.add_special_tokens([*special, *roles])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=special[4:],
    )
    images = Idefics2ImageProcessorPil(
        size={"height": 48, "width": 48}, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_image_splitting=False
    )
    return Idefics2Processor(images, tokenizer, image_seq_len=2, chat_template=skeleton.CHAT_TEMPLATE)


@lru_cache(maxsize=1)
def base() -> Base:
    """Two text layers of width 32, random, in double precision."""
    toy_processor = processor()
    text = MistralConfig(
        vocab_size=len(toy_processor.tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        sliding_window=None,
        pad_token_id=3,
    )
    vision = Idefics2VisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4, image_size=48, patch_size=8
    )
    perceiver = Idefics2PerceiverConfig(
        hidden_size=32,
        resampler_n_latents=2,
        resampler_depth=1,
        resampler_n_heads=4,
        resampler_head_dim=8,
        num_key_value_heads=4,
    )
    config = Idefics2Config(
        text_config=text, vision_config=vision, perceiver_config=perceiver, image_token_id=6, pad_token_id=3
    )
    with tempfile.TemporaryDirectory() as folder:
        with torch.random.fork_rng([]), torch.no_grad():
            torch.manual_seed(0)
            model = Idefics2ForConditionalGeneration(config)
            # At the small stock values attention is flat and logits stay near 0.
            model.model.text_model.embed_tokens.weight.normal_()
            for module in [*model.model.text_model.layers.modules(), model.lm_head]:
                if isinstance(module, torch.nn.Linear):
                    module.weight.normal_(std=module.in_features**-0.5)
            model.save_pretrained(folder)
        toy_processor.save_pretrained(folder)
        return load_base(folder, SCENARIO, device="cpu", dtype=torch.float64)


@lru_cache(maxsize=1)
def features() -> VisionFeatures:
    return VisionFeatures(base(), models.images())


def toy(games: int = 6, *, negatives: bool = False) -> list[Example]:
    """'all' selects every image and 'undo' deselects every one: the order of images does not matter.

    With `negatives`, every other game begins with a wrong single click, and the rest of it is context.
    """
    images, result = sorted(models.images()), []
    for number in range(games):
        played, labels, state = [], [], ""
        asked: list[tuple[str, str, int | None]] = [
            ("all", "select A B C", 1),
            ("undo", "deselect A B C", 1),
            ("all", "select A B C", 1),
        ]
        if negatives and number % 2:
            wrong = "ABC"[number % 3]
            asked = [("all", f"select {wrong}", -1), ("undo", f"deselect {wrong}", None), ("all", "select A B C", None)]
        for utterance, action, label in asked:
            played.append(Turn(state, utterance, action, 0.2))
            labels.append(label)
            state = actions.apply(actions.parse(action), state)
        context = tuple(images[number * 3 : number * 3 + 3])
        result.append(Example(Interaction(f"toy-{number}", context, tuple(played)), tuple(labels)))
    return result


def validate(model: Any) -> dict[str, float]:
    """Exact match on games of unseen pictures."""
    games = [example.interaction for example in toy(9)[6:]]
    result = exact_match(Policy(base(), model, features()), games)
    return {"exact_match": result.exact_match, "illegal_actions": result.illegal_actions or 0}


QUICK = {"max_steps": 8, "warmup_steps": 2, "batch_turns": 9, "micro_batch_interactions": 2, "checkpoint_every": 4}


CONFIGS: dict[str, TrainingConfig] = {
    "fft": replace(fft(), learning_rate=1e-2, label_smoothing=0.02, **QUICK),
    "rl": replace(rl(), learning_rate=1e-2, **QUICK),
    # The toy's p are not this model's: as references they would lie far out on the sigmoid.
    "kto": replace(kto(), learning_rate=1e-3, kto_reference="initial", **QUICK),
}
