"""Who plays the listener's part: anything that turns interactions into actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from respect_core.interaction import Interaction


@dataclass(frozen=True)
class Act:
    """A canonical, legal action, and the probability with which it was taken (renormalised over legal actions).

    `legal` is False where something else was written and the action was made of it.
    """

    action: str
    probability: float
    legal: bool = True


class Listener(Protocol):
    """Acts on many interactions at once."""

    def act(self, interactions: Sequence[Interaction]) -> Sequence[Act]:
        """One act per interaction, in order. The last turn of each interaction has action None."""
        ...
