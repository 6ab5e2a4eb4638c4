"""Guard rails: figures by hand, and the pass over a small random model."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from text_bases import small_llama

from respect_core.acting.policy import Policy
from respect_core.interaction import Interaction, Turn
from respect_core.measuring import guard_pass, guard_rails
from respect_core.measuring.guard_rails import DOUBT, RETRACTED, SURE, Reply, compare, measure
from respect_core.model.base import attach_lora, load_base
from respect_core.model.vision import VisionFeatures
from respect_core.profiles import profile
from respect_core.scenario import scenario

REPLY = Reply("turn on the lamp", "The lamp is on.", (1, 2, 3, 4, 5), False, 0.5, 0.0, False)


def test_figures_by_hand() -> None:
    looping = replace(
        REPLY, text="\u043b\u0430\u043c\u043f la", tokens=(1, 2, 3, 4, 1, 2, 3, 4, 1), cut=True, flips=True
    )
    figures = measure([REPLY, looping])
    assert (figures["prompts"], figures["length"], figures["cut"], figures["flips"]) == (2, 7, 0.5, 0.5)
    assert figures["repetition"] == 2 / 8, "of 2 + 6 4-grams, 1234 and 2341 come back"
    assert figures["distinct_2"] == 5 / 12, "12 23 34 45, and 41"
    assert figures["other_scripts"] == 4 / (11 + 6)
    with pytest.raises(ValueError, match="no replies"):
        measure([])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("Sorry. I\u2019m unable to do that", True),
        ("As an AI language model, I have no lamp.", True),
        ("The lamp is on. You can\u2019t see it from here.", False),
        ("I apologise for the wait: it is on.", False),
        ("It is on. " * 20 + "I cannot say more.", False),
    ],
)
def test_a_reply_refuses_at_its_beginning(text: str, expected: bool) -> None:
    assert guard_rails.refuses(text) is expected


def test_hiragana_and_kanji_are_one_script() -> None:
    assert guard_rails.scripts("\u96fb\u6c17 \u3064\u3051\u3066 ok 1!") == {"CJK": 5, "LATIN": 2}


def test_a_policy_is_compared_with_the_seed_policy() -> None:
    seed = measure([REPLY, REPLY])
    assert compare(seed, seed)["length_ratio"] == compare(seed, seed)["entropy_ratio"] == 1
    own = compare(measure([REPLY, replace(REPLY, tokens=(1,) * 20, text="I cannot do that.")]), seed)
    assert (own["length_ratio"], own["refusals_added"]) == (2.5, 0.5) and own["repetition_added"] > 0.8


def test_one_turn_of_an_interaction_is_chosen_and_always_the_same() -> None:
    turns = {(f"g{number}", turn) for number in range(40) for turn in range(3)}
    chosen = guard_rails.sample(turns, 24)
    assert len({name for name, _ in chosen}) == len(chosen) == 24
    assert guard_rails.sample(sorted(turns), 24) == chosen != guard_rails.sample(turns - {chosen[0]}, 24)


@pytest.fixture(scope="module")
def seed() -> Policy:
    base = load_base(small_llama(), scenario("chat"), device="cpu")
    return Policy(base, None, VisionFeatures(base, {}))


RIGHT = [
    Interaction(f"c{number}", (), (Turn("", f"turn on lamp {number}", f"Lamp {number} is on."),)) for number in range(3)
]


def test_the_seed_policy_is_at_no_distance_from_itself(seed: Policy) -> None:
    replies = guard_pass.observe(seed, None, RIGHT, max_new_tokens=8)
    assert [(reply.cut, reply.log_ratio) for reply in replies] == [(True, 0.0)] * 3
    assert all(0 < reply.entropy <= math.log(60_000) for reply in replies)


def test_what_the_pass_scores_is_what_the_policy_gives(seed: Policy) -> None:
    """An adapter is at the distance that log-probabilities of its own replies say, and flips as they say."""
    base = seed.base
    lora: Any = attach_lora(base, profile("chat").lora, seed=3)
    with torch.no_grad():
        for name, weights in lora.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=0.5)
    policy = Policy(base, lora, seed.features)
    replies = guard_pass.observe(policy, seed, RIGHT, max_new_tokens=8)
    for game, reply in zip(RIGHT, replies, strict=True):
        answered = [replace(game, turns=(replace(game.turns[0], action=reply.text),))]
        own, theirs = (each.log_probabilities(answered)[0][0] for each in (policy, seed))
        both = len(reply.tokens) + 1  # these count the end token too
        assert reply.log_ratio == pytest.approx((own - theirs) / both, abs=4 / both)
        said = [replace(game, turns=(*game.turns, Turn("", DOUBT, text))) for text in (SURE, RETRACTED)]
        sure, retracted = (policy.log_probabilities([each])[0][1] for each in said)
        assert reply.flips is (retracted > sure)
    assert abs(sum(reply.log_ratio for reply in replies)) > 0.1, "the adapter changes something"


def test_a_prompt_without_room_for_a_reply_is_left_out(seed: Policy) -> None:
    long = Interaction("long", (), (Turn("", "lamp " * 1000, "On."),))
    assert len(guard_pass.observe(seed, None, [long, *RIGHT], max_new_tokens=8)) == 3
