"""The model: IDEFICS2-8B's numbers with random weights, made on the device, behind the same `Base` as any other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import Idefics2Config, Idefics2ForConditionalGeneration, MistralConfig
from transformers.models.idefics2.configuration_idefics2 import Idefics2PerceiverConfig, Idefics2VisionConfig

from respect_core import tiny
from respect_core.model import precision
from respect_core.model.base import Base, freeze, load_processor
from respect_core.model.vision import VisionFeatures
from respect_core.scenarios.multiref.scenario import SCENARIO
from tests.bench.gpu.games import Pictures


@dataclass(frozen=True)
class Shape:
    """The numbers of HuggingFaceM4/idefics2-8b's published configuration; `side`: of a picture (published code)."""

    name: str = "idefics2-8b"
    vocabulary: int = 32003
    layers: int = 32
    width: int = 4096
    inner: int = 14336
    heads: int = 32
    key_value_heads: int = 8
    vision_layers: int = 27
    vision_width: int = 1152
    vision_inner: int = 4304
    vision_heads: int = 16
    image_size: int = 980
    patch: int = 14
    latents: int = 64
    resampler_layers: int = 3
    resampler_heads: int = 16
    resampler_head_width: int = 96
    resampler_key_value_heads: int = 4
    side: int = 224

    def cut(self) -> Shape:
        """Two layers of text and vision, one of the resampler: the CPU can check them in double precision."""
        return replace(self, name=f"{self.name}, 2 layers", layers=2, vision_layers=2, resampler_layers=1)


TOY = Shape(
    "toy", vocabulary=1024, layers=2, width=64, inner=128, heads=4, key_value_heads=2,
    vision_layers=2, vision_width=32, vision_inner=64, vision_heads=2, image_size=56, latents=3,
    resampler_layers=1, resampler_heads=2, resampler_head_width=16, resampler_key_value_heads=1, side=28,
)  # fmt: skip


def build(shape: Shape, device: torch.device, dtype: torch.dtype | None = None) -> tuple[Base, VisionFeatures]:
    """Make the model where it runs, in the precision that `load_base` chooses by default; the host holds no copy."""
    processor = load_processor(str(tiny.path()))
    processor.image_seq_len = shape.latents
    processor.image_processor.size = {"height": shape.side, "width": shape.side}
    config = _config(shape, processor)
    fast = device.type == "cuda" or precision.has_fast_bf16(device, config)
    dtype = dtype or (torch.bfloat16 if fast else torch.float32)
    with torch.device(device), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        model: Any = Idefics2ForConditionalGeneration._from_config(config, dtype=dtype)
    base = Base(shape.name, freeze(model), processor, f"{shape.name} at random", SCENARIO)
    return base, VisionFeatures(base, Pictures(shape.side))


def _config(shape: Shape, processor: Any) -> Idefics2Config:
    ids = processor.tokenizer.get_vocab()
    ends = {"pad_token_id": ids["<pad>"], "bos_token_id": ids["<s>"], "eos_token_id": ids["<end_of_utterance>"]}
    text = MistralConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=32768,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        sliding_window=4096,
        **ends,
    )
    vision = Idefics2VisionConfig(
        hidden_size=shape.vision_width,
        intermediate_size=shape.vision_inner,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_heads,
        image_size=shape.image_size,
        patch_size=shape.patch,
    )
    perceiver = Idefics2PerceiverConfig(
        hidden_size=shape.width,
        resampler_n_latents=shape.latents,
        resampler_depth=shape.resampler_layers,
        resampler_n_heads=shape.resampler_heads,
        resampler_head_dim=shape.resampler_head_width,
        num_key_value_heads=shape.resampler_key_value_heads,
    )
    return Idefics2Config(
        text_config=text,
        vision_config=vision,
        perceiver_config=perceiver,
        image_token_id=ids["<image>"],
        tie_word_embeddings=False,
        **ends,
    )
