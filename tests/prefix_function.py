"""The constraint of MULTIREF as transformers' `generate` takes one: what ours is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from respect_core.interaction import Interaction
from respect_core.model.chat import Chat
from respect_core.scenarios.multiref.constraint import legal_tokens


def prefix_allowed_tokens(
    chat: Chat, interactions: Sequence[Interaction], prompt_length: int
) -> Callable[[int, torch.Tensor], list[int]]:
    """The constraint as `prefix_allowed_tokens_fn` of transformers' `generate`.

    Args:
        interactions: one per row of the batch, waiting for an action.
        prompt_length: tokens of the (left-padded) prompt.
    """
    roots = [legal_tokens(chat, one.turns[-1].state, len(one.context)) for one in interactions]

    def allowed(row: int, input_ids: torch.Tensor) -> list[int]:
        node = roots[row]
        for token in input_ids[prompt_length:].tolist():
            node = node.get(token, {})
        return list(node) or [chat.pad_id]  # behind the end

    return allowed
