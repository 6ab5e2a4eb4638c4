"""Define the tiny model and its processor, untrained: configuration, tokenizer, chat template.

Classes are the stock ones; only the numbers here make the model tiny.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from transformers import (
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics2Processor,
    MistralConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.idefics2.configuration_idefics2 import Idefics2PerceiverConfig, Idefics2VisionConfig
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

from respect_core.scenarios.multiref.tiny_build.vocabulary import AROUND_IMAGE, END, IMAGE, SPECIAL, words

PIXELS, PATCH = 48, 8  # side lengths of a picture for the vision tower, and of a patch
LATENTS = 2  # image tokens per picture
WIDTH = 192

# A word, with its inner hyphens and apostrophes, is one piece; so is every other non-space character.
_PIECES = Regex(r"[A-Za-z]+(?:[-'][A-Za-z]+)*|[^\sA-Za-z]")

# One token marks each role; the assistant's turn alone is closed. User text cannot collide with the letters of
# images, nor spell a special token.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].capitalize() + ':' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% elif message['role'] == 'user' %}{{ ' ' + part['text'] | lower | replace('<', '(') }}"
    "{% else %}{{ ' ' + part['text'] }}{% endif %}"
    "{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ '<end_of_utterance>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer of whole words for the game and common English, and of characters for all other text."""
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*SPECIAL, *words()]))}
    fast = Tokenizer(WordPiece(vocabulary, unk_token="<unk>", max_input_chars_per_word=10_000))
    fast.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Replace(Regex(r"[^\t\n\r -~]"), "?")]
    )
    fast.pre_tokenizer = pre_tokenizers.Split(_PIECES, behavior="removed", invert=True)
    fast.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])])
    fast.decoder = WordPieceDecoder(cleanup=False)
    fast.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=[END, AROUND_IMAGE, IMAGE],
        padding_side="left",
        model_max_length=2048,
    )


def processor() -> Idefics2Processor:
    """Make the stock processor around `tokenizer`; pictures of any size become PIXELS x PIXELS."""
    image_processor = Idefics2ImageProcessorPil(
        size={"height": PIXELS, "width": PIXELS},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        do_image_splitting=False,
    )
    return Idefics2Processor(image_processor, tokenizer(), image_seq_len=LATENTS, chat_template=CHAT_TEMPLATE)


def config(vocabulary: PreTrainedTokenizerFast) -> Idefics2Config:
    """Configure text 5 x 192, vision 3 x 128 with 36 patches per picture, and one perceiver layer."""
    ids = vocabulary.get_vocab()
    ends: dict[str, Any] = {"pad_token_id": ids["<pad>"], "bos_token_id": ids["<s>"], "eos_token_id": ids[END]}
    text = MistralConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=48,
        max_position_embeddings=2048,
        sliding_window=None,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},  # most of a head sees content, not distance
        **ends,
    )
    vision = Idefics2VisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=PIXELS,
        patch_size=PATCH,
    )
    perceiver = Idefics2PerceiverConfig(
        hidden_size=WIDTH,
        resampler_n_latents=LATENTS,
        resampler_depth=1,
        resampler_n_heads=4,
        resampler_head_dim=48,
        num_key_value_heads=4,
    )
    return Idefics2Config(
        text_config=text,
        vision_config=vision,
        perceiver_config=perceiver,
        image_token_id=ids[IMAGE],
        tie_word_embeddings=False,
        **ends,
    )


def untrained(vocabulary: PreTrainedTokenizerFast, seed: int = 0) -> Idefics2ForConditionalGeneration:
    """Make the model with random weights.

    Embeddings and perceiver latents start large, since with the stock initialisation they drown.
    """
    torch.manual_seed(seed)
    model = Idefics2ForConditionalGeneration(config(vocabulary))
    with torch.no_grad():
        model.model.text_model.embed_tokens.weight.normal_(std=0.7)
        model.model.connector.perceiver_resampler.latents.normal_()
    model.generation_config.eos_token_id = model.config.eos_token_id
    model.generation_config.pad_token_id = model.config.pad_token_id
    return model
