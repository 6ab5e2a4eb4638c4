"""Build the policy prompt of MULTIREF (figure 12) as chat messages, the same for every model.

Differences between models (special tokens, newlines) are in each processor's chat template.
"""

from __future__ import annotations

from respect_core.interaction import Interaction
from respect_core.scenario import Message
from respect_core.scenarios.multiref import actions


def _text(role: str, text: str) -> Message:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def messages(interaction: Interaction, *, upto: int | None = None) -> list[Message]:
    """Build the messages of an interaction: the images with their letters, then state, utterance and action per turn.

    Args:
        interaction: its context gives the images in order; pass them to the processor in the same order.
        upto: number of turns to include; all by default.

    Returns:
        Messages for `apply_chat_template`. A turn whose action is None has no assistant message.
    """
    images: Message = {"role": "system", "content": []}
    for letter in actions.LETTERS[: len(interaction.context)]:
        images["content"] += [{"type": "image"}, {"type": "text", "text": letter}]
    result = [images]
    for turn in interaction.turns[:upto]:
        result += [_text("system", actions.describe_state(turn.state)), _text("user", turn.utterance)]
        if turn.action is not None:
            result.append(_text("assistant", turn.action))
    return result
