"""Split a tree of messages into conversations: regenerated replies and edited utterances are its forks.

The path that went on is the conversation. At each fork a branch that the user left after one exchange becomes a sibling
of the exchange that took its place; a branch with a follow-up of its own is a conversation too, whose opening is what
it shares. So nothing counts twice, and no follow-up is lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from respect_core.scenarios.chat.importers.conversation import Entry, Sibling


class Node:
    """A message of a tree with those that follow it, the preferred or latest last. The root may have no message."""

    __slots__ = ("children", "entry", "info")

    def __init__(self, entry: Entry | None, info: Any = None) -> None:
        self.entry, self.info = entry, info
        self.children: list[Node] = []

    @property
    def role(self) -> str:
        """The role of the message; empty without one."""
        return self.entry.message.role if self.entry else ""


def paths(root: Node, current: Collection[Node] = ()) -> Iterator[tuple[list[Node], list[Entry], int]]:
    """Yield the conversations of a tree: nodes, entries with their siblings, how many of them are shared.

    Args:
        current: the path on which the user was last, if known. Otherwise the longest counts, of equals the last.
    """
    sizes, on_path = _sizes(root), set(map(id, current))
    pending: list[tuple[list[Node], Node]] = [([], root)]
    while pending:
        path, node = pending.pop()
        shared = _shared(path, node)
        path, siblings = list(path), dict[int, tuple[Sibling, ...]]()
        while True:
            if node.entry is not None:
                path.append(node)
            if not node.children:
                break
            ranked = sorted(
                enumerate(node.children), key=lambda each: (id(each[1]) in on_path, sizes[id(each[1])], each[0])
            )
            *others, best = [child for _, child in ranked]
            for other in others:
                if sizes[id(other)][0] > (other.role == "user"):
                    pending.append((list(path), other))
                else:
                    siblings[id(best)] = siblings.get(id(best), ()) + tuple(_siblings(path, other))
            node = best
        entries = [
            replace(each.entry, siblings=each.entry.siblings + siblings.get(id(each), ()))
            for each in path
            if each.entry
        ]
        yield path, entries, shared


def _sizes(root: Node) -> dict[int, tuple[int, int]]:
    """Return for each node by id how many messages of the user, and of anybody, its longest branch has."""
    order, sizes = [root], dict[int, tuple[int, int]]()
    for node in order:
        order.extend(node.children)
    for node in reversed(order):
        users, height = max((sizes[id(each)] for each in node.children), default=(0, 0))
        sizes[id(node)] = users + (node.role == "user"), height + 1
    return sizes


def _shared(path: list[Node], fork: Node) -> int:
    """Return how many messages before a fork belong to whole turns of the other branch."""
    if fork.role == "user":
        return len(path)
    return max((i for i, node in enumerate(path) if node.role == "user"), default=0)


def _siblings(path: list[Node], fork: Node) -> Iterator[Sibling]:
    """Yield each exchange that ends in a leaf below a fork, without those that have no reply."""
    exchange = path[_shared(path, fork) :]
    pending = [([*exchange, fork])]
    while pending:
        nodes = pending.pop()
        pending += [[*nodes, child] for child in reversed(nodes[-1].children)]
        entries = [node.entry for node in nodes if node.entry]
        utterances = [each.message.content for each in entries if each.message.role == "user"]
        replies = [each for each in entries if each.message.role == "assistant"]
        if not nodes[-1].children and utterances and replies:
            reply = tuple(each.message for each in entries if each.message.role != "user")
            yield Sibling(utterances[-1], reply, replies[-1].explicit, replies[-1].model)
