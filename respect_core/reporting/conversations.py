"""Choose conversations to show turn by turn: by what was decoded from them, always the same ones.

What users and policies wrote is cut to a bounded length here, and escaped where the page is rendered.
"""

from __future__ import annotations

import json
import re
from bisect import insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from respect_core.interaction import Interaction, Turn
from respect_core.measuring.evidence import ORDER
from respect_core.scenario import Message, ScenarioError, scenario
from respect_core.store.base import Store
from respect_core.store.by_game import games
from respect_core.store.manifests import Partition, partitions
from respect_core.variants import SEED, DecoderKind

MOST_CHARACTERS = 700
"""Characters of a message that are shown."""
_MOST_TURNS, _BEFORE = 6, 2
"""Turns of a conversation that are shown, and how many of them come before the one it is shown for."""
_LABELS = {-1: "negative", 0: "neutral", 1: "positive"}
_UNSEEN = re.compile(r"[^\S\n\t ]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


@dataclass(frozen=True)
class Said:
    """A message, as it is shown."""

    role: str
    text: str


@dataclass(frozen=True)
class Exchange:
    """A turn: what the user and the assistant wrote, and what was decoded from the message after it."""

    number: int
    messages: tuple[Said, ...]
    label: str | None  # None: no follow-up was decoded
    score: float | None
    thumb: str  # the user's own: up, down or empty


@dataclass(frozen=True)
class Conversation:
    """A conversation, and why it is shown."""

    heading: str
    policy: str
    round: int
    turns: int
    exchanges: tuple[Exchange, ...]
    closing: str  # what the user wrote last, without a reply; empty if that is not shown


@dataclass(frozen=True)
class _Turn:
    scenario: str
    turn: Turn
    follow_up: str | None
    explicit: int | None
    label: int | None = None
    score: float | None = None
    unsure: bool = False


Rank = Callable[[Sequence[_Turn], int], float | None]
"""How well a turn of a conversation fits, the lowest first; None if it does not."""


def _decoded(turns: Sequence[_Turn], at: int, *labels: int) -> bool:
    return len(turns) >= at + len(labels) and all(turns[at + k].label == label for k, label in enumerate(labels))


def _certain(turn: _Turn, label: int) -> float | None:
    return -label * (turn.score or 0.0) if turn.label == label else None


_KINDS: Sequence[tuple[str, Rank]] = (
    ("A complaint, and a reply that met it", lambda turns, at: 0.0 if _decoded(turns, at, -1, 1) else None),
    ("A complaint, and another one", lambda turns, at: 0.0 if _decoded(turns, at, -1, -1) else None),
    (
        "The user's thumb and the decoded label differ",
        lambda turns, at: 0.0 if (turns[at].explicit or 0) * (turns[at].label or 0) < 0 else None,
    ),
    ("The decoder hesitates", lambda turns, at: abs(turns[at].score or 0.0) if turns[at].unsure else None),
    ("A reply with tools", lambda turns, at: 0.0 if any(said.role == "tool" for said in _said(turns[at])) else None),
    ("The follow-up that is decoded as negative with most certainty", lambda turns, at: _certain(turns[at], -1)),
    ("The follow-up that is decoded as positive with most certainty", lambda turns, at: _certain(turns[at], 1)),
)


def choose(store: Store, policies: Sequence[str], up_to: int | None = None) -> list[Conversation]:
    """Choose a conversation of each kind, if any, no conversation twice.

    They are of the first of the policies that acted in the last round, and of the seed policy in round 0.

    Args:
        policies: in order of preference.
        up_to: the last round to choose from.
    """
    acted = [each for each in partitions(store, "turns") if up_to is None or each.round <= up_to]
    if not acted:
        return []
    last = max(each.round for each in acted)
    order = [*policies, *ORDER]
    first = min(
        (each for each in acted if each.round == last),
        key=lambda each: order.index(each.variant) if each.variant in order else len(order),
    )
    places = [first, *({Partition(0, SEED)}.intersection(acted) - {first})]
    chosen, used = list[Conversation](), set[str]()
    for (heading, _), candidates in zip(_KINDS, _candidates(store, places), strict=True):
        if (best := next((each for each in candidates if each.name not in used), None)) is not None:
            used.add(best.name)
            chosen.append(_shown(heading, best.place, best.turns, best.at))
    return chosen


class _Candidate(NamedTuple):
    """A conversation, with its turn that fits a kind best; in the order of preference."""

    fit: float
    number: int
    at: int
    place: Partition
    name: str
    turns: Sequence[_Turn]


def _candidates(store: Store, places: Sequence[Partition]) -> list[list[_Candidate]]:
    """Return the best conversations of each kind, more than other kinds can take away."""
    found: list[list[_Candidate]] = [[] for _ in _KINDS]
    enough = len(_KINDS) * len(places)
    pool = ((place, name, turns) for place in places for name, turns in _conversations(store, place))
    for number, (place, name, turns) in enumerate(pool):
        for (_, rank), mine in zip(_KINDS, found, strict=True):
            ranked = [(fit, at) for at in range(len(turns)) if (fit := rank(turns, at)) is not None]
            if ranked and (len(mine) < enough or min(ranked)[0] < mine[-1].fit):
                fit, at = min(ranked)
                insort(mine, _Candidate(fit, number, at, place, name, turns))
                del mine[enough:]
    return found


def _conversations(store: Store, place: Partition) -> Iterator[tuple[str, list[_Turn]]]:
    """Read the conversations of a partition with their labels, in order of id; by the ternary decoder where it ran."""
    columns = {
        "turns": ["turn", "scenario", "state", "utterance", "action", "follow_up", "explicit"],
        "feedback": ["turn", "decoder", "label", "score", "low_margin"],
    }
    for name, rows in games(store, place, columns):
        labels: dict[int, tuple[int, float, bool]] = {}
        for row in rows["feedback"]:
            if row["decoder"] == DecoderKind.TERNARY or row["turn"] not in labels:
                labels[row["turn"]] = row["label"], row["score"], row["low_margin"]
        if rows["turns"]:
            yield (
                name,
                [
                    _Turn(
                        row["scenario"],
                        Turn(row["state"], row["utterance"], row["action"]),
                        row["follow_up"],
                        row["explicit"],
                        *labels.get(row["turn"], (None, None, False)),
                    )
                    for row in rows["turns"]
                ],
            )


def _shown(heading: str, place: Partition, turns: Sequence[_Turn], at: int) -> Conversation:
    start = max(0, min(at - _BEFORE, len(turns) - _MOST_TURNS))
    part = turns[start : start + _MOST_TURNS]
    exchanges = tuple(
        Exchange(
            number,
            tuple(_said(turn)),
            _LABELS[turn.label] if turn.label is not None else None,
            turn.score,
            {1: "up", -1: "down"}.get(turn.explicit or 0, ""),
        )
        for number, turn in enumerate(part, start + 1)
    )
    closing = bounded(part[-1].follow_up or "") if start + len(part) == len(turns) else ""
    return Conversation(heading, place.variant, place.round, len(turns), exchanges, closing)


def _said(turn: _Turn) -> Iterator[Said]:
    """Yield the messages of a turn as its scenario reads them."""
    try:
        messages = scenario(turn.scenario).messages(Interaction("", (), (turn.turn,)))
    except ScenarioError:  # its package is gone
        messages = [_text("user", turn.turn.utterance), _text("assistant", turn.turn.action or "")]
    for message in messages:
        text = "\n".join(part["text"] for part in message["content"] if part["type"] == "text")
        yield Said(message["role"], bounded("\n".join(map(readable, text.split("\n")))))


def _text(role: str, text: str) -> Message:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def readable(line: str) -> str:
    """Write a call of a tool as a call of a function; return any other line as it is."""
    if not line.startswith("CALL "):
        return line
    try:
        call = json.loads(line.removeprefix("CALL "))
        given: Mapping[str, object] = call["arguments"]
        arguments = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in given.items())
        return f"→ {call['name']}({', '.join(arguments)})"
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return line


def bounded(text: str) -> str:
    """Cut a text to what is shown of it, and show characters that cannot be seen as such."""
    more = len(text) - MOST_CHARACTERS
    shown = visible(text[:MOST_CHARACTERS])
    return f"{shown} … ({more:,} more characters)" if more > 0 else shown


def visible(text: str) -> str:
    """Show characters that cannot be seen as such."""
    return _UNSEEN.sub("\ufffd", text)
