"""Plug in MULTIREF, the reference game of the paper, as a scenario.

Deviations from the paper, numbered as they are cited elsewhere:
1. KTO's KL term comes from one alternative action per turn: `select X` with X the first image of the logged context
   that is not the turn's own single click (as in the authors' code). Here X must also be unselected, so that the action
   is legal; a turn with every other image selected has none.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING

from respect_core.interaction import Interaction, Turn
from respect_core.scenario import Accepted, Message, Node, Row, Scenario, ScenarioError
from respect_core.scenarios.multiref import actions, augmentation, constraint, prompt
from respect_core.scenarios.multiref.actions import LETTERS, Action
from respect_core.scenarios.multiref.game import MAX_TURNS
from respect_core.schemas import Columns

if TYPE_CHECKING:
    from respect_core.model.chat import Chat
    from respect_core.store.manifests import Partition

SMALLEST_CONTEXT = 2  # images


class MultiRef(Scenario):
    """The reference game. A state is the set of selected letters, an action clicks images: see `actions`."""

    name = "multiref"
    context_only = frozenset({actions.NOTHING})
    max_new_tokens = 10  # published code
    most_turns = MAX_TURNS // 2  # the listener's

    def states(
        self, context: Sequence[str], actions_taken: Sequence[str], logged: Sequence[str | None] = ()
    ) -> list[str]:
        if any(state is not None for state in logged):
            raise ScenarioError("context: states follow from the actions; leave `state` out of the turns")
        if not SMALLEST_CONTEXT <= len(context) <= len(LETTERS):
            bounds = f"at least {SMALLEST_CONTEXT} and at most {len(LETTERS)}"
            raise ScenarioError(f"context: has {len(context)} images; give {bounds}")
        states = [""]
        for number, text in enumerate(actions_taken):
            try:
                states.append(actions.step(text, states[-1], len(context)))
            except actions.ActionError as error:
                raise ScenarioError(f"turns[{number}].action: {error}") from error
        return states

    def read_columns(self, block: bytes, partition: Partition, taken: Set[str], images: Set[str]) -> Columns | None:
        from respect_core.scenarios.multiref import columns  # only exports need it

        return columns.read_columns(block, partition, taken, images)

    def messages(self, interaction: Interaction) -> list[Message]:
        return prompt.messages(interaction)

    def longest_turn(self) -> Turn:
        half = len(LETTERS) // 2
        return Turn(LETTERS[:half], "", str(Action(LETTERS[:half], LETTERS[half:])))

    def constraint(self, chat: Chat, interaction: Interaction) -> Node:
        return constraint.legal_tokens(chat, interaction.turns[-1].state, len(interaction.context))

    def accept(self, text: str, interaction: Interaction) -> Accepted:
        """Accept a legal action that changes the state, and repair any other text as the published code does."""
        state, images = interaction.turns[-1].state, len(interaction.context)
        if actions.is_legal(text, state, images) and (canonical := actions.canonical(text)) != actions.NOTHING:
            return Accepted(canonical, True)
        return Accepted(str(repaired(text, state, images)), False)

    def permuted(self, interaction: Interaction, permutation: Sequence[int]) -> Interaction:
        """Return the same interaction with image ``permutation[i]`` as letter i.

        States and actions name the new letters and are canonical again.

        Raises:
            ValueError: `permutation` is not a permutation of the images.
        """
        if sorted(permutation) != list(range(len(interaction.context))):
            raise ValueError(f"{list(permutation)} is not a permutation of the {len(interaction.context)} images")
        rename = {LETTERS[old]: LETTERS[new] for new, old in enumerate(permutation)}

        def letters(old: str) -> str:
            return "".join(sorted(rename[letter] for letter in old))

        def turn(old: Turn) -> Turn:
            action = None
            if old.action is not None:
                parsed = actions.parse(old.action)
                action = str(Action(letters(parsed.deselect), letters(parsed.select)))
            return replace(old, state=letters(old.state), action=action)

        context = tuple(interaction.context[old] for old in permutation)
        return replace(interaction, context=context, turns=tuple(turn(old) for old in interaction.turns))

    def alternative(self, interaction: Interaction, turn: int) -> str | None:
        logged = interaction.turns[turn]
        action = actions.parse(logged.action or actions.NOTHING)
        own = action.select if not action.deselect and len(action.select) == 1 else ""
        letters = LETTERS[: len(interaction.context)]
        letter = next((letter for letter in letters if letter not in logged.state + own), None)
        return None if letter is None else str(Action(select=letter))

    def augment(self, curated: Sequence[Row], ratio: float, seed: int) -> list[Row]:
        return augmentation.augment(curated, ratio, seed)


def repaired(text: str, state: str, n_images: int) -> Action:
    """Repair a text that is not an action (published code).

    Letters that do not fit the state are dropped; if none remains, the first image is clicked.
    """
    letters: dict[str, set[str]] = {"select": set(), "deselect": set()}
    verb = ""
    for word in text.split():
        letter = word.upper()
        if word.lower() in letters:
            verb = word.lower()
        elif verb and letter in set(LETTERS[:n_images]) and (letter in state) == (verb == "deselect"):
            letters[verb].add(letter)
    if not any(letters.values()):
        letters["deselect" if LETTERS[0] in state else "select"].add(LETTERS[0])
    return Action("".join(sorted(letters["deselect"])), "".join(sorted(letters["select"])))


SCENARIO = MultiRef()
