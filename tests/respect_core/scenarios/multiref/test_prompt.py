"""The prompt of figure 12."""

from __future__ import annotations

from respect_core.interaction import Interaction, Turn
from respect_core.scenarios.multiref import prompt

GAME = Interaction("g", ("x", "y", "z"), (Turn("", "A boat", "select A"), Turn("A", "no, the other one")))


def text(message: prompt.Message) -> str:
    return " ".join(part.get("text", "<img>") for part in message["content"])


def test_images_then_state_utterance_and_action_per_turn() -> None:
    assert [(m["role"], text(m)) for m in prompt.messages(GAME)] == [
        ("system", "<img> A <img> B <img> C"),
        ("system", "none is selected"),
        ("user", "A boat"),
        ("assistant", "select A"),
        ("system", "A currently selected"),
        ("user", "no, the other one"),
    ]


def test_upto_cuts_turns() -> None:
    assert prompt.messages(GAME, upto=1) == prompt.messages(GAME)[:4]
    assert prompt.messages(GAME, upto=0) == prompt.messages(GAME)[:1]
