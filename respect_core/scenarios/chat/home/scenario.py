"""Plug in a smart home's assistant as a scenario: conversations whose replies are commands.

It differs from other conversations in one way: a reply is right or wrong as a whole, so a checkpoint is chosen by exact
match (`validation`, deviation 3), and replies that are no call are counted as illegal.
"""

from __future__ import annotations

import json

from respect_core.interaction import Interaction
from respect_core.scenario import EXACT_MATCH, Accepted
from respect_core.scenarios.chat.scenario import ChatScenario

BLANK = "{}"
"""What stands for a blank reply, which no log may hold."""


class HomeScenario(ChatScenario):
    """Conversations with the assistant of a smart home."""

    name = "home"
    criterion = EXACT_MATCH
    max_new_tokens = 24  # the longest call has 23

    def accept(self, text: str, interaction: Interaction) -> Accepted:
        return Accepted(text if text.strip() else BLANK, _is_call(text))


def _is_call(text: str) -> bool:
    try:
        call = json.loads(text)
    except ValueError:
        return False
    return isinstance(call, dict) and "tool" in call


SCENARIO = HomeScenario()
