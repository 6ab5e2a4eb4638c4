"""Parse and apply MULTIREF's action language: canonical form, and legality in a state.

An action is a string such as ``deselect E select F`` (appendix B.1; lower case as in the released
adapters). In canonical form, letters are in alphabetical order, each once. ``nothing`` is the action of a
turn in which nothing was clicked.

A state is the set of selected letters, written as a string in alphabetical order: ``""``, ``"FG"``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

from respect_core.scenario import ScenarioError

LETTERS = "ABCDEFGHIJ"
NOTHING = "nothing"
LONGEST = len("deselect select") + 2 * len(LETTERS)  # characters, naming each letter once

# One part or both, each with at least one letter; published pattern, narrowed from A-Z to A-J.
ACTION_PATTERN = re.compile(
    r"^(?:deselect((?:\s[A-J])+)(?:\sselect((?:\s[A-J])+))?|select((?:\s[A-J])+))$", re.IGNORECASE
)


class ActionError(ScenarioError):
    """An unusable action. The message names the action, the reason and the remedy."""


@dataclass(frozen=True)
class Action:
    """Letters to deselect and to select, each a string in alphabetical order without repeats."""

    deselect: str = ""
    select: str = ""

    def __str__(self) -> str:
        parts = []
        if self.deselect:
            parts.append("deselect " + " ".join(self.deselect))
        if self.select:
            parts.append("select " + " ".join(self.select))
        return " ".join(parts) or NOTHING


def parse(text: str) -> Action:
    """Parse an action string, ignoring case, letter order and white space.

    Raises:
        ActionError: not in the action language, or a letter named twice.
    """
    folded = " ".join(text.split())
    if len(folded) > LONGEST:
        raise ActionError(f"action {_shorten(folded)} is longer than any action; name each letter once")
    return _parse(folded)


# Millions of logged turns hold few different actions and states, so pure functions are cached, for short texts only.
@lru_cache(maxsize=4096)
def _parse(text: str) -> Action:
    if text.lower() == NOTHING:
        return Action()
    match = ACTION_PATTERN.match(text)
    if match is None:
        raise ActionError(
            f"action {text!r} is not in the action language; "
            f"expected e.g. 'select A C' or 'deselect E select F' with letters {LETTERS[0]}-{LETTERS[-1]}"
        )
    deselect, select_after, select_only = ("".join(group.upper().split()) if group else "" for group in match.groups())
    select = select_after or select_only
    if len(set(deselect + select)) != len(deselect + select):
        raise ActionError(f"action {text!r} names a letter twice; name each letter once")
    return Action(deselect="".join(sorted(deselect)), select="".join(sorted(select)))


def canonical(text: str) -> str:
    """Return the canonical spelling of an action string. Raises ActionError as `parse` does."""
    return str(parse(text))


@lru_cache(maxsize=4096)
def check_legal(action: Action, state: str, n_images: int = len(LETTERS)) -> None:
    """Raise ActionError unless `action` can be carried out in `state` on `n_images` images."""
    beyond = sorted(set(action.select + action.deselect) - set(LETTERS[:n_images]))
    if beyond:
        raise ActionError(f"action '{action}' names {' '.join(beyond)}, but the context has {n_images} images")
    absent = sorted(set(action.deselect) - set(state))
    if absent:
        raise ActionError(f"action '{action}' deselects {' '.join(absent)}, which is not selected in state '{state}'")
    present = sorted(set(action.select) & set(state))
    if present:
        raise ActionError(f"action '{action}' selects {' '.join(present)}, already selected in state '{state}'")


def is_legal(text: str, state: str, n_images: int = len(LETTERS)) -> bool:
    """Return whether an action string parses and can be carried out in `state`."""
    try:
        check_legal(parse(text), state, n_images)
    except ActionError:
        return False
    return True


@lru_cache(maxsize=4096)
def apply(action: Action, state: str) -> str:
    """Return the state after a legal action. Raises ActionError on an illegal one."""
    check_legal(action, state)
    return "".join(sorted((set(state) - set(action.deselect)) | set(action.select)))


# The cache holds canonical actions only, since errors are not cached.
@lru_cache(maxsize=16384)
def step(text: str, state: str, n_images: int) -> str:
    """Return the state after an action in canonical form. Raises ActionError if it is not canonical, or illegal."""
    action = parse(text)
    if str(action) != text:
        raise ActionError(f"action {_shorten(text)} is not canonical; write {str(action)!r}")
    check_legal(action, state, n_images)
    return apply(action, state)


def _shorten(text: str) -> str:
    """Return an action for a message, cut to a bounded length."""
    return repr(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")


def between(before: str, after: str) -> Action:
    """Return the action that leads from one state to another."""
    return Action(
        deselect="".join(sorted(set(before) - set(after))),
        select="".join(sorted(set(after) - set(before))),
    )


@lru_cache(maxsize=4096)
def legal_actions(state: str, n_images: int = len(LETTERS)) -> tuple[str, ...]:
    """Return every canonical action that changes `state`: toggles of each non-empty set of letters, 2^n - 1 in all."""
    letters = LETTERS[:n_images]
    return tuple(
        str(Action("".join(x for x in chosen if x in state), "".join(x for x in chosen if x not in state)))
        for size in range(1, n_images + 1)
        for chosen in combinations(letters, size)
    )


def describe_state(state: str) -> str:
    """Return the state line of the policy prompt (figure 12)."""
    return f"{' '.join(state)} currently selected" if state else "none is selected"
