"""Define the port through which a scenario plugs into learning and acting.

A scenario is looked up by name among the entry points of group `respect.scenarios`, so that any package can add one
without a change here. It sees contexts, utterances and actions, and cannot name a target or an outcome; questions that
only measuring may ask have a port of their own, `respect_core.measuring.judge`.

The defaults suit plain text: every action that is not blank is legal, images have no order, and there are no
alternatives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from respect_core.errors import ExpectedError
from respect_core.interaction import Interaction, Turn

if TYPE_CHECKING:
    from respect_core.model.chat import Chat
    from respect_core.schemas import Columns
    from respect_core.store.manifests import Partition

Plugin = TypeVar("Plugin")
Message: TypeAlias = dict[str, Any]
"""A chat message as `apply_chat_template` takes it."""
Node: TypeAlias = "dict[int, Node]"
"""Maps each token that may come next to the node after it; the node after the end token is empty."""
Row: TypeAlias = dict[str, Any]
"""A row of a training set."""

GROUP = "respect.scenarios"

EXACT_MATCH = "exact match"
PER_TOKEN = "probability per token"
"""Criteria: whether a greedy action is the curated one; the geometric mean of its tokens' probabilities."""


class ScenarioError(ExpectedError, ValueError):
    """No scenario has this name, or a record does not fit its scenario."""


class Accepted(NamedTuple):
    """The action read from a text that the model wrote."""

    action: str  # canonical
    legal: bool  # False where the text was not an action and had to be repaired


class Scenario(ABC):
    """A kind of conversation, as learning and acting see it. Instances hold no state."""

    name: str
    context_only: frozenset[str] = frozenset()
    """Actions that serve as context only: training skips them, since no policy samples them."""
    free_text: bool = False
    """Whether actions are any text: their probability is kept as its logarithm, and every action may differ."""
    max_new_tokens: int = 128
    """Most tokens of an action that is written without a constraint."""
    criterion: str = EXACT_MATCH
    """The name of a turn's score on curated turns, by which the gate compares policies (`validation`)."""
    most_turns: int = 64
    """Most turns of an interaction."""
    longest_utterance: int = 500
    """Most characters of an utterance in normal form."""
    utterance_tokens: int = 128
    """Most tokens of an utterance, where the base takes as many as an interaction may have."""
    game_tokens: int = 2048
    """Most tokens of an interaction."""

    # --- the log ---

    @abstractmethod
    def states(self, context: Sequence[str], actions: Sequence[str], logged: Sequence[str | None] = ()) -> list[str]:
        """Return the state before each action and after the last: one state more than actions.

        Args:
            logged: states that the log gives; a scenario whose states follow from the actions has none.

        Raises:
            ScenarioError: an action that is not canonical, or illegal in its state; the message begins with
                ``turns[N].action: `` or with ``context: ``.
        """

    def read_columns(self, block: bytes, partition: Partition, taken: Set[str], images: Set[str]) -> Columns | None:
        """Read a block of whole log lines as columns, or return None to have the lines read one by one.

        Args:
            taken: ids of the partition's interactions so far.
            images: ids of the images that contexts may name.
        """
        return None

    # --- prompts ---

    @abstractmethod
    def messages(self, interaction: Interaction) -> list[Message]:
        """Return the chat messages of an interaction. A turn whose action is None has no assistant message."""

    @abstractmethod
    def longest_turn(self) -> Turn:
        """Return a turn with the most tokens around its utterance."""

    # --- acting ---

    def constraint(self, chat: Chat, interaction: Interaction) -> Node | None:
        """Return the root of the tree of token sequences that may be written next; None for free text."""
        return None

    def accept(self, text: str, interaction: Interaction) -> Accepted:
        """Return the last turn's action, read from a text that the model wrote."""
        return Accepted(text, bool(text.strip()))

    # --- learning ---

    def permuted(self, interaction: Interaction, permutation: Sequence[int]) -> Interaction:
        """Return the same interaction with image ``permutation[i]`` in place i."""
        return interaction

    def alternative(self, interaction: Interaction, turn: int) -> str | None:
        """Return the action that represents all others in KTO's KL term, or None where there is none."""
        return None

    def augment(self, curated: Sequence[Row], ratio: float, seed: int) -> list[Row]:
        """Return rows of whole games to learn from in addition to the curated ones (appendix B.2).

        Args:
            curated: rows of a training set, in order of interaction and turn.
            ratio: added turns to learn from, per labelled turn of `curated`.
        """
        return []


@cache
def scenario(name: str) -> Scenario:
    """Return the scenario of this name. Raises ScenarioError where none is installed."""
    return plugin(GROUP, name)


def plugin(group: str, name: str) -> Any:
    """Load the entry point of this name in a group. Raises ScenarioError where none is installed."""
    return _entry(group, name).load()


def module_of(group: str, name: str) -> str:
    """Return the module of an entry point, which is not imported. Raises ScenarioError where none is installed."""
    return str(_entry(group, name).module)


def _entry(group: str, name: str) -> Any:
    installed: Mapping[str, Any] = {each.name: each for each in entry_points(group=group)}
    if name not in installed:
        raise ScenarioError(
            f"scenario: {name!r} is not installed (entry points of {group}); "
            f"there are: {', '.join(sorted(installed)) or 'none'}"
        )
    return installed[name]
