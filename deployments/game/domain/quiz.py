"""Ask about the rules (appendices A.1, A.3): participants of a study must answer correctly before they play."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deployments.game.domain.protocol import QuizQuestion


@dataclass(frozen=True)
class _Question:
    id: str
    text: str
    options: tuple[str, ...]
    right: int  # index of the option


_QUESTIONS = (
    _Question(
        "win",
        "When is the game won?",
        (
            "When the listener has selected at least one target",
            "When all targets are selected, whatever else is selected too",
            "When all targets and nothing else are selected",
        ),
        2,
    ),
    _Question(
        "targets",
        "Who sees which pictures are the targets?",
        ("The speaker only", "The listener only", "Both players"),
        0,
    ),
    _Question(
        "order",
        "Is “select the third picture” a good instruction?",
        (
            "Yes, counting is the safest way",
            "No, the listener sees the pictures in another order",
            "Yes, if the picture is in the first row",
        ),
        1,
    ),
    _Question(
        "wrong",
        "The listener has selected a picture that is not a target. What do you do as the speaker?",
        (
            "Nothing: wrong selections do not matter",
            "Click on it to deselect it yourself",
            "Ask the listener to deselect it",
        ),
        2,
    ),
    _Question(
        "clocks",
        "How long may a turn take?",
        (
            "25 seconds to write, 45 seconds to select",
            "45 seconds to write, 25 seconds to select",
            "As long as you like",
        ),
        0,
    ),
    _Question(
        "idle",
        "What happens if you let your clock run out?",
        (
            "The turn passes to the other player",
            "The game ends, and I am not paid for it",
            "I get another 25 seconds",
        ),
        1,
    ),
    _Question(
        "turns",
        "How many turns does a game have at most?",
        ("5", "20, ten for each player", "As many as it takes"),
        1,
    ),
)


def questions() -> list[QuizQuestion]:
    """Return the questions, without the answers."""
    return [QuizQuestion(id=item.id, text=item.text, options=list(item.options)) for item in _QUESTIONS]


def wrong(answers: Mapping[str, str | int]) -> list[str]:
    """Return the ids of questions that are not answered correctly. An answer is an option's text, or its index."""
    return [item.id for item in _QUESTIONS if answers.get(item.id) not in (item.options[item.right], item.right)]
