"""The embedded model is an ordinary Idefics2 that plain transformers loads, and any text goes through it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Idefics2ForConditionalGeneration,
    Idefics2Processor,
)

from respect_core import tiny
from respect_core.interaction import Interaction, Turn
from respect_core.log.records import from_log
from respect_core.scenarios.multiref import actions, contexts, dialects, prompt, speakers, tangrams
from respect_core.scenarios.multiref.actions import LETTERS
from respect_core.scenarios.multiref.tiny_build import skeleton, vocabulary


@pytest.fixture(scope="module")
def processor() -> Any:
    return AutoProcessor.from_pretrained(tiny.path(), local_files_only=True)


@pytest.fixture(scope="module")
def games() -> list[Interaction]:
    pool = tangrams.procedural_pool(0)
    factory = speakers.speaker_factory(speakers.values_of(pool.tangrams))
    return [from_log(log) for log in speakers.human_games(contexts.sample(pool.main, 10, "tiny"), factory, seed=0)]


def images(game: Interaction) -> list[Image.Image]:
    return [tangrams.render(tangrams.procedural_pool(0).tangrams[image]) for image in game.context]


def test_stock_classes_load_from_local_files(processor: Any) -> None:
    model = AutoModelForImageTextToText.from_pretrained(tiny.path(), local_files_only=True)
    assert type(model) is Idefics2ForConditionalGeneration
    assert type(processor) is Idefics2Processor
    assert sum(p.numel() for p in model.parameters()) < 4e6
    assert (tiny.path() / "model.safetensors").stat().st_size < 15e6
    assert processor.image_seq_len == model.config.perceiver_config.resampler_n_latents
    assert len(processor.tokenizer) == model.config.text_config.vocab_size
    assert model.config.image_token_id == processor.image_token_id
    assert not processor.image_processor.do_image_splitting


def test_the_saved_processor_is_the_one_in_the_code(processor: Any) -> None:
    made = skeleton.processor()
    assert processor.tokenizer.get_vocab() == made.tokenizer.get_vocab()
    assert processor.chat_template == made.chat_template


def test_every_turns_prompt_is_a_prefix_of_the_whole_game(processor: Any, games: list[Interaction]) -> None:
    for game in games:
        pictures = images(game)
        whole_text = processor.apply_chat_template(prompt.messages(game), tokenize=False)
        whole = processor(text=whole_text, images=pictures)
        for number, turn in enumerate(game.turns):
            before = prompt.messages(game, upto=number + 1)[:-1]
            text = processor.apply_chat_template(before, tokenize=False, add_generation_prompt=True)
            assert whole_text.startswith(text) and text != whole_text
            start = processor(text=text, images=pictures)["input_ids"][0]
            action = processor.tokenizer(f"{turn.action}{vocabulary.END}", add_special_tokens=False)["input_ids"]
            assert len(action) == len(str(turn.action).split()) + 1
            assert whole["input_ids"][0][: len(start) + len(action)] == start + action


def test_pictures_of_any_size_and_mode_come_out_alike(processor: Any, games: list[Interaction]) -> None:
    tangram = tangrams.procedural_pool(0).tangrams[games[0].context[0]]
    small = processor.image_processor([[tangrams.render(tangram)]], return_tensors="np")["pixel_values"]
    large = processor.image_processor([[tangrams.render(tangram, 448).convert("L")]], return_tensors="np")
    assert small.shape == large["pixel_values"].shape == (1, 1, 3, skeleton.PIXELS, skeleton.PIXELS)
    assert np.abs(small - large["pixel_values"]).mean() < 0.02


@settings(max_examples=200)
@given(st.text(max_size=80))
def test_any_text_encodes(text: str) -> None:
    processor = skeleton_processor()
    message = {"role": "user", "content": [{"type": "text", "text": text}]}
    rendered = processor.apply_chat_template([message], tokenize=False)
    ids = processor.tokenizer(rendered)["input_ids"]
    assert processor.tokenizer.unk_token_id not in ids
    specials = {processor.tokenizer.convert_tokens_to_ids(x) for x in (vocabulary.IMAGE, vocabulary.END)}
    assert not specials & set(ids)


def skeleton_processor() -> Any:
    if not hasattr(skeleton_processor, "made"):
        skeleton_processor.made = skeleton.processor()  # type: ignore[attr-defined]
    return skeleton_processor.made  # type: ignore[attr-defined]


def test_user_text_cannot_be_taken_for_letters(processor: Any) -> None:
    letters = set(processor.tokenizer.convert_tokens_to_ids(list(LETTERS)))
    assert len(letters) == len(LETTERS)
    message = {"role": "user", "content": [{"type": "text", "text": "A, I mean the D-shaped one. B!"}]}
    text = processor.apply_chat_template([message], tokenize=False)
    assert not letters & set(processor.tokenizer(text)["input_ids"])


def test_speakers_words_are_whole_tokens(processor: Any) -> None:
    pool = tangrams.procedural_pool(0)
    factory = speakers.speaker_factory(speakers.values_of(pool.tangrams))
    forms = [
        value
        for name, value in vars(dialects).items()
        if name.isupper() and isinstance(value, tuple) and isinstance(value[0], str)
    ]
    texts = [form.replace("{}", "") for some in forms for form in some]
    for log in speakers.human_games(contexts.sample(pool.main, 60, "words"), factory, seed=0):
        texts += [turn.utterance for turn in log.turns]
    assert len(texts) > 300
    assert not {text for text in texts if any(t.startswith("##") for t in processor.tokenizer.tokenize(text))}


def test_it_plays_with_stock_generation(processor: Any, games: list[Interaction]) -> None:
    model = AutoModelForImageTextToText.from_pretrained(tiny.path(), local_files_only=True).eval()
    game = Interaction("g", games[0].context, (Turn("", "the wide one"),))
    text = processor.apply_chat_template(prompt.messages(game), tokenize=False, add_generation_prompt=True)
    inputs = processor(text=text, images=images(game), return_tensors="pt")
    torch.manual_seed(0)
    out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    said = processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert actions.is_legal(said, "") and said.startswith("select")
