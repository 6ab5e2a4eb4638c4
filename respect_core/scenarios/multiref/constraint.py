"""Constrain decoding: which tokens may come next, so that exactly the legal canonical actions can be written.

Deviation from the paper, numbered as it is cited elsewhere:
1. The published code suppresses tokens outside the action language and repairs what does not fit the state. Here
   only actions that are canonical and legal in the state can be written, so that each has one spelling, and its
   probability, renormalised over legal continuations, is exact.

A node is a dictionary from token to next node; the node after the end token is empty. Nodes are shared: 2^n - 1 actions
on n images need about 2n of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

from respect_core.model.chat import Chat
from respect_core.scenario import Node
from respect_core.scenarios.multiref import actions

_Words: TypeAlias = "dict[str, _Words]"
_END = ""


@lru_cache(maxsize=8192)
def legal_tokens(chat: Chat, state: str, n_images: int) -> Node:
    """Build the root node, whose paths are the token sequences of `actions.legal_actions(state, n_images)`."""
    root: Node = {}
    if chat.words_stand_alone:
        return _by_word(_words(state, n_images), chat, {})
    for tokens in chat.action_tokens(actions.legal_actions(state, n_images)):
        node = root
        for token in tokens:
            node = node.setdefault(token, {})
    return root


def _words(state: str, n_images: int) -> _Words:
    """Build the same in words: a verb, then letters in alphabetical order."""

    def part(letters: Sequence[str], rest: _Words) -> _Words:
        nodes: _Words = {}
        for letter in reversed(letters):
            nodes = {letter: nodes | rest} | nodes
        return nodes

    end: _Words = {_END: {}}
    free = [letter for letter in actions.LETTERS[:n_images] if letter not in state]
    select: _Words = {"select": part(free, end)} if free else {}
    return ({"deselect": part(state, select | end)} if state else {}) | select


def _by_word(words: _Words, chat: Chat, nodes_by_id: dict[int, Node]) -> Node:
    """Spell out words in tokens; `nodes_by_id` keeps nodes shared."""
    if id(words) not in nodes_by_id:
        root: Node = {}
        for word, following in words.items():
            tokens = chat.word_tokens(word) if word != _END else (chat.end_id,)
            node = root
            for token in tokens[:-1]:
                node = node.setdefault(token, {})
            node[tokens[-1]] = _by_word(following, chat, nodes_by_id)
        nodes_by_id[id(words)] = root
    return nodes_by_id[id(words)]
