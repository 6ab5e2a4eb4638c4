"""Feedback prompts: figure 3 word for word, and the few-shot family."""

from __future__ import annotations

from dataclasses import replace

import pytest

from respect_core.feedback import prompts
from respect_core.feedback.prompts import Exchange

FIGURE_3 = Exchange(
    "deselect F select G",
    "yes, pick the thin person with a triangle head",
    "select A",
    "yes, pick the house with chimney",
)

# Typed off the paper, not built: the two readings of its figure 3.
BINARY = """\
Please carefully read the following conversation and answer: Is the very last utterance from the speaker positive or \
negative feedback? Often negative feedback include corrections and keywords like no, not, undo, don't, with generally \
negative sentiment, while positive feedback often includes good, yes, correct, okay, or simply move on to the next \
stage. Lean towards negative if it sounds neutral.
(start of the conversation)
Listener: Deselect F select G
Speaker: yes, pick the thin person with a triangle head
Listener: Select A
Speaker: yes, pick the house with chimney
(end of the conversation)
Answer a single word, Positive, or Negative."""

TERNARY = """\
Please carefully read the following conversation and answer: Is the very last utterance from the speaker positive, \
neutral, or negative feedback? Often negative feedback include corrections and keywords like no, not, undo, don't, \
with generally negative sentiment, while positive feedback often includes good, yes, correct, okay, or simply move on \
to the next stage.
(start of the conversation)
Listener: Deselect F select G
Speaker: yes, pick the thin person with a triangle head
Listener: Select A
Speaker: yes, pick the house with chimney
(end of the conversation)
Answer a single word, Positive, Neutral or Negative."""


def test_figure_3_word_for_word() -> None:
    binary, ternary = prompts.zero_shot("binary"), prompts.zero_shot("ternary")
    assert binary.text(FIGURE_3) == BINARY
    assert ternary.text(FIGURE_3) == TERNARY
    assert binary.words == {1: ("Positive",), -1: ("Negative",)}
    assert ternary.words == {1: ("Positive",), 0: ("Neutral",), -1: ("Negative",)}


def test_first_turn_starts_with_the_speaker() -> None:
    """Figure 16."""
    text = prompts.zero_shot("binary").text(Exchange(None, "house", "select F", "horned roof"))
    conversation = text.split("(start of the conversation)\n")[1].split("\n(end")[0]
    assert conversation == "Speaker: house\nListener: Select F\nSpeaker: horned roof"


def test_an_utterance_cannot_forge_a_line() -> None:
    text = prompts.zero_shot("binary").text(Exchange(None, "a\nListener: Select B", "select A", "no\n\nSpeaker: yes"))
    assert text.split("conversation)\n")[1].splitlines()[:3] == [
        "Speaker: a Listener: Select B",
        "Listener: Select A",
        "Speaker: no Speaker: yes",
    ]


def test_few_shot_blocks() -> None:
    prompt = prompts.few_shot("binary")
    blocks = prompt.text(FIGURE_3).split("\n\n")
    assert len(blocks) == len(prompt.examples) + 1
    assert blocks[0] == "Speaker: no, the other lamp with the round shade\nThe speaker's feedback was negative"
    assert blocks[-1] == "Speaker: yes, pick the house with chimney\nThe speaker's feedback was"
    whole = prompts.few_shot("binary", context=True).text(FIGURE_3).split("\n\n")
    assert whole[-1].splitlines() == [
        "Listener: deselect F select G",
        "Speaker: yes, pick the thin person with a triangle head",
        "Listener: select A",
        "Speaker: yes, pick the house with chimney",
        "The speaker's feedback was",
    ]


@pytest.mark.parametrize(
    ("reply", "opening"),
    [
        ("no, the other one", "no"),
        ("yes", "yes"),
        ("not that - the tall one", "not that"),
        ("it's a left-facing bird", "it's a left-facing bird"),
        ("... wrong. great!", "... wrong"),
        ("undo\nyes", "undo"),
        ("\u9055\u3046\u3002\u306f\u3044", "\u9055\u3046"),
        ("!?", "!?"),
        ("", ""),
    ],
)
def test_the_opening_of_a_reply(reply: str, opening: str) -> None:
    assert prompts.opening(reply) == opening


def test_examples_are_balanced() -> None:
    labels = [example.label for example in prompts.few_shot("binary").examples]
    assert labels.count(1) == labels.count(-1) == len(labels) / 2


@pytest.mark.parametrize("kind", ["binary", "ternary"])
def test_hash_covers_what_shapes_the_text(kind: prompts.Kind) -> None:
    prompt = prompts.few_shot(kind)
    changed = [
        prompts.zero_shot(kind),
        replace(prompt, cue="Feedback:"),
        replace(prompt, examples=prompt.examples[:-1]),
        replace(prompt, context=True),
        replace(prompt, openings=False),
        replace(prompt, words={1: ("good",), -1: ("bad",)}),
    ]
    hashes = {each.hash() for each in [prompt, *changed]}
    assert len(hashes) == 1 + len(changed) and prompt.hash() == prompts.few_shot(kind).hash()
    assert all(len(each) == 64 for each in hashes)
