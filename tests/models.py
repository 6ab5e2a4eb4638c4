"""Untrained models and interactions that several test modules use. Built once a process."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import AutoModelForImageTextToText, AutoProcessor, Idefics2Processor, PreTrainedTokenizerFast

from respect_core.interaction import Interaction, Turn
from respect_core.interaction import waiting as asked
from respect_core.model.base import Base, attach_lora, load_base
from respect_core.model.vision import VisionFeatures
from respect_core.scenarios.multiref import actions, prompt
from respect_core.scenarios.multiref.scenario import SCENARIO
from respect_core.scenarios.multiref.tiny_build import skeleton
from respect_core.variants import LoraConfig

__all__ = ["asked"]

WORDS = ["the", "a", "one", "that", "looks", "like", "bird", "with", "head", "up", "no", "wrong", "undo", "great"]

# The template of the 8B model, as its processor has it.
IDEFICS2_TEMPLATE = (
    "{% for message in messages %}{{message['role'].capitalize()}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


@lru_cache(maxsize=1)
def base() -> Base:
    """The tiny model's shape with random weights, loaded as any base is."""
    with tempfile.TemporaryDirectory() as folder:
        processor = skeleton.processor()
        skeleton.untrained(processor.tokenizer).save_pretrained(folder)
        processor.save_pretrained(folder)
        return load_base(folder, SCENARIO)


@lru_cache(maxsize=1)
def images() -> dict[str, Image.Image]:
    """Forty pictures of noise."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (40, 48, 48, 3), generator=generator, dtype=torch.uint8).numpy()
    return {f"image-{index}": Image.fromarray(pixels) for index, pixels in enumerate(noise)}


@lru_cache(maxsize=1)
def features() -> VisionFeatures:
    return VisionFeatures(base(), images())


def random_lora(seed: int = 0, **changes: Any) -> Any:
    """Adapters with weights far from zero, in evaluation mode."""
    model = attach_lora(base(), LoraConfig(**changes), seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def game(seed: int, turns: int = 4, n_images: int = 10, *, waiting: bool = False) -> Interaction:
    """A random game: any legal action on any words. With `waiting`, the last turn has no action yet."""
    choose = random.Random(seed)
    context = tuple(choose.sample(sorted(images()), n_images))
    state, played = "", []
    for number in range(turns):
        words = " ".join(choose.choices(WORDS, k=choose.randint(1, 8)))
        size = choose.choice([1, 1, 1, 2, 3])
        toggled = set(choose.sample(actions.LETTERS[:n_images], size))
        action = actions.between(state, "".join(sorted(toggled ^ set(state))))
        asked = waiting and number == turns - 1
        played.append(Turn(state, words, None if asked else str(action)))
        state = actions.apply(action, state)
    return Interaction(f"game-{seed}", context, tuple(played))


def stock_inputs(interaction: Interaction, processor: Any, *, generate: bool = False) -> Any:
    """What stock transformers code would feed the model: one conversation with its pictures."""
    text = processor.apply_chat_template(prompt.messages(interaction), add_generation_prompt=generate)
    pictures = [images()[image] for image in interaction.context]
    return processor(text=[text], images=[pictures], return_tensors="pt")


@lru_cache(maxsize=1)
def sentencepiece_processor() -> Idefics2Processor:
    """The 8B model's format: a byte-fallback BPE in the manner of Llama's tokenizer, and its chat template."""
    tokenizer = Tokenizer(BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    corpus = [
        "System: none is selected",
        "User: the bird that looks up",
        "Assistant: select A C",
        "deselect E select F",
    ]
    corpus += [f"Assistant: select {letter}" for letter in actions.LETTERS] + WORDS
    trainer = BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False, max_token_length=12)
    # SentencePiece keeps words apart while it learns merges, and needs no pre-tokenizer afterwards.
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.train_from_iterator(corpus * 3, trainer)
    tokenizer.pre_tokenizer = None
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
    fast.add_special_tokens(
        {"additional_special_tokens": [AddedToken("<fake_token_around_image>"), AddedToken("<image>")]}
    )
    return Idefics2Processor(
        skeleton.processor().image_processor, fast, image_seq_len=3, chat_template=IDEFICS2_TEMPLATE
    )


def reload(folder: Path) -> tuple[Any, Any]:
    """Model and processor as stock transformers loads them."""
    return AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for an operation of torch, and so many passes at once."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_by_one(model: Any, interaction: Interaction, processor: Any, turn: int) -> torch.Tensor:
    """Log-probabilities of the action tokens of one turn: a plain model call on pixels, no cache, no packing."""
    upto = Interaction(interaction.interaction_id, interaction.context, interaction.turns[: turn + 1])
    whole = stock_inputs(upto, processor)
    start = stock_inputs(asked(interaction, turn), processor, generate=True)["input_ids"].shape[1]
    ids = whole["input_ids"][0]
    stop = int((ids == processor.tokenizer.convert_tokens_to_ids("<end_of_utterance>")).nonzero()[-1]) + 1
    logp = model(**whole).logits.float().log_softmax(-1)[0]
    return logp[start - 1 : stop - 1].gather(1, ids[start:stop, None]).squeeze(1)
