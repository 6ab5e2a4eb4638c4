"""The models of the bench: `tiny`, an untrained Idefics2 whose text part has SmolLM2's shape, and SmolLM2 itself."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from typing import Any

import torch
from transformers import Idefics2Config, Idefics2ForConditionalGeneration, Idefics2Processor, LlamaConfig
from transformers.models.idefics2.configuration_idefics2 import Idefics2PerceiverConfig, Idefics2VisionConfig

from respect_core.model.base import Base, load_base
from respect_core.model.vision import VisionFeatures
from respect_core.profiles import home, tiny
from respect_core.scenario import scenario
from respect_core.scenarios.multiref.scenario import SCENARIO
from respect_core.scenarios.multiref.tiny_build import skeleton
from respect_core.scenarios.multiref.tiny_build.gate import Drawings
from respect_core.variants import LoraConfig

SIZES = ("tiny", "135m", "smollm2")
CHAT = SIZES[2]  # which has trained weights, and takes no images
LATENTS = 8  # image tokens a picture
WIDTH = 576


@lru_cache(maxsize=len(SIZES) + 1)
def base(size: str, dtype: torch.dtype = torch.float32) -> Base:
    """On the CPU; both sides of a comparison use the same one."""
    if size == CHAT:
        return load_base(home().base, scenario(home().scenario), device="cpu", dtype=dtype)
    return load_base("tiny" if size == "tiny" else _large().name, SCENARIO, device="cpu", dtype=dtype)


@lru_cache(maxsize=1)
def _large() -> tempfile.TemporaryDirectory[str]:
    """The larger model's folder, which ends with the process."""
    folder, processor = tempfile.TemporaryDirectory(), _processor()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        Idefics2ForConditionalGeneration(_config(processor)).save_pretrained(folder.name)
    processor.save_pretrained(folder.name)
    return folder


@lru_cache(maxsize=1)
def pictures() -> Drawings:
    return Drawings()


@lru_cache(maxsize=len(SIZES))
def features(size: str) -> VisionFeatures:
    return VisionFeatures(base(size), {} if size == CHAT else pictures())


def lora(size: str) -> LoraConfig:
    """The paper's for the model without a profile, the profile's own for the others."""
    return {"tiny": tiny().lora, CHAT: home().lora}.get(size) or LoraConfig()


def push(model: Any, scale: float = 0.03) -> Any:
    """The model with its adapters moved away from zero, the same way each time, so that one that gets lost shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_B.default" in name or "lora_embedding_A.default" in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def _processor() -> Idefics2Processor:
    """The tiny model's, with more tokens a picture."""
    tiny = skeleton.processor()
    return Idefics2Processor(
        tiny.image_processor, tiny.tokenizer, image_seq_len=LATENTS, chat_template=skeleton.CHAT_TEMPLATE
    )


def _config(processor: Idefics2Processor) -> Idefics2Config:
    """SmolLM2-135M's text model with its whole vocabulary (a word of the game is one token), 6 x 256 vision layers."""
    ids = processor.tokenizer.get_vocab()
    ends = {"pad_token_id": ids["<pad>"], "bos_token_id": ids["<s>"], "eos_token_id": ids["<end_of_utterance>"]}
    text = LlamaConfig(
        vocab_size=49152,
        hidden_size=WIDTH,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
        rms_norm_eps=1e-5,
        **ends,
    )
    vision = Idefics2VisionConfig(
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=skeleton.PIXELS,
        patch_size=skeleton.PATCH,
    )
    perceiver = Idefics2PerceiverConfig(
        hidden_size=WIDTH,
        resampler_n_latents=LATENTS,
        resampler_depth=1,
        resampler_n_heads=9,
        resampler_head_dim=64,
        num_key_value_heads=3,
    )
    return Idefics2Config(
        text_config=text,
        vision_config=vision,
        perceiver_config=perceiver,
        image_token_id=ids["<image>"],
        tie_word_embeddings=True,
        **ends,
    )
