"""Define the listener: anything that turns interactions into actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from respect_core.interaction import Interaction


@dataclass(frozen=True)
class Act:
    """A canonical, legal action, and the probability with which it was taken (renormalised over legal actions).

    `legal` is False if the text was no legal action and was repaired. `logp` is the probability's logarithm for free
    text, whose probability may be zero in a float.
    """

    action: str
    probability: float
    legal: bool = True
    logp: float | None = None


class Listener(Protocol):
    """A listener, which acts on many interactions at once."""

    def act(self, interactions: Sequence[Interaction]) -> Sequence[Act]:
        """Return one act per interaction, in order. The last turn of each interaction has action None."""
        ...
