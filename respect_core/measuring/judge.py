"""Define the port through which a scenario plugs into measuring: FOR MEASURING ONLY.

A judge is looked up by the name of its scenario, in the entry points of group `respect.judges`. It sees targets, which
the other port, `respect_core.scenario`, cannot name, so nothing on the learning path may import this.

The defaults suit plain text: an action is right or wrong as a whole, and has one spelling.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

from respect_core.scenario import ScenarioError, plugin

GROUP = "respect.judges"

ImageSimilarity: TypeAlias = Callable[[str, str], float]
"""f of equation 3, over image ids. Raises KeyError, with a remedy, for unknown images."""


@dataclass(frozen=True)
class Words:
    """What reports call the parts of a scenario."""

    interaction: str = "conversation"
    speaker: str = "user"
    messages: str = "users' messages"
    won: str = "finished"
    accuracy: str = "turn accuracy"
    paper: bool = False
    """Whether reports are the paper's: tables and figures bear its numbers, and what is missing of them is said."""

    @property
    def interactions(self) -> str:
        """The plural."""
        return f"{self.interaction}s"


class Judge(ABC):
    """The measuring side of a scenario. Instances hold no state.

    `context` and `targets` are as in the tables, for the interaction that an action belongs to.
    """

    words: Words = Words()

    @abstractmethod
    def label(self, action: str, context: Sequence[str], targets: Collection[str]) -> int:
        """Return how an action fits the targets: +1 right, 0 partly right, -1 wrong."""

    def credit(self, action: str, context: Sequence[str], targets: Collection[str]) -> tuple[int, int]:
        """Return how many units of an action are accurate, and how many it has: clicks in appendix B.4."""
        return int(self.label(action, context, targets) == 1), 1

    def chance(self, action: str, state: str, context: Sequence[str]) -> Mapping[str, float]:
        """Return the probability of an action by chance, by the name of each way to guess; empty where there is none.

        Each judge names the same ways for all actions.
        """
        return {}

    def canonical(self, action: str) -> str:
        """Return the spelling that all equal actions share."""
        return action

    def intended(self, text: str, state: str, context: Sequence[str]) -> str:
        """Parse the action that an annotator would have taken in a state; return it in canonical form (appendix A.2).

        Raises:
            ScenarioError: the text is no action, or is illegal in the state.
        """
        if not text.strip():
            raise ScenarioError("the action is blank")
        return self.canonical(text)

    def similarity(self, action: str, intended: str, context: Sequence[str], f: ImageSimilarity) -> float | None:
        """Return the similarity of two actions (equation 3), or None if the scenario compares no images.

        Raises:
            KeyError: an image that f does not know.
        """
        return None


@cache
def judge(scenario: str) -> Judge:
    """Return the judge of a scenario. Raises ScenarioError if none is installed."""
    return plugin(GROUP, scenario)


def words(scenario: str) -> Words:
    """Return the words for a scenario; those for conversations if it has no judge."""
    try:
        return judge(scenario).words
    except ScenarioError:
        return Words()
