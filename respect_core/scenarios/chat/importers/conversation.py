"""Define a conversation as all importers return it, and build it from the messages of a log.

A turn is an utterance of the user and all that the assistant wrote before the next one; results of tools in between are
context. The follow-up of a turn is the utterance of the turn after it. A conversation may end with an utterance that
nobody answered: its reply is empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Literal, NamedTuple

from respect_core.log.log import RecordError

Role = Literal["system", "user", "assistant", "tool"]
_GAP = "\n\n"  # between messages that are merged


class Source(NamedTuple):
    """Where a conversation was read: a file, and a record of it."""

    file: str
    record: str


@dataclass(frozen=True)
class ToolCall:
    """A call that the assistant made; `arguments` is JSON."""

    name: str
    arguments: str
    id: str | None = None


@dataclass(frozen=True)
class Message:
    """A message of a chat."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Sibling:
    """An exchange that the user left for another: a regenerated reply, or an utterance that was edited later."""

    utterance: str
    reply: tuple[Message, ...]
    explicit: int | None = None
    model: str | None = None


@dataclass(frozen=True)
class ChatTurn:
    """An utterance and the reply to it."""

    utterance: str
    reply: tuple[Message, ...] = ()
    explicit: int | None = None  # the user's own thumb: 1 or -1
    logprob: float | None = None  # of the reply, summed over its tokens
    sampling: Mapping[str, Any] | None = None
    token_ids: tuple[int, ...] | None = None
    model: str | None = None
    at: str | None = None  # ISO 8601, UTC
    cut: bool = False  # the client closed the stream before the reply was whole
    siblings: tuple[Sibling, ...] = ()


@dataclass(frozen=True)
class Conversation:
    """A conversation of one user. `user` is raw: whoever stores it makes a pseudonym of it.

    `opening` holds the messages before the first turn: a greeting, or what a branch shares with the conversation that
    it left.
    """

    id: str
    user: str | None
    system: str | None
    tools: tuple[str, ...]  # JSON
    turns: tuple[ChatTurn, ...]
    started_at: str | None
    language: str | None  # as the log has it
    source: Source
    opening: tuple[Message, ...] = ()


# --- from messages to turns -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A message with what a log says about it."""

    message: Message
    at: str | None = None
    model: str | None = None
    explicit: int | None = None
    logprob: float | None = None
    sampling: Mapping[str, Any] | None = None
    token_ids: tuple[int, ...] | None = None
    cut: bool = False
    siblings: tuple[Sibling, ...] = ()


@dataclass
class Thread:
    """The messages of one conversation, in order. The first `shared` of them belong to another conversation."""

    entries: Sequence[Entry]
    source: Source
    id: str | None = None
    user: str | None = None
    tools: tuple[str, ...] = ()
    started_at: str | None = None
    language: str | None = None
    shared: int = 0
    format: str = field(default="", compare=False)


def merged(entries: Iterable[Entry]) -> list[Entry]:
    """Leave out empty messages and join those of one role that follow each other, except around calls of tools."""
    result: list[Entry] = []
    for entry in entries:
        message = entry.message
        if not message.content.strip() and not message.tool_calls and message.role != "tool":
            continue
        last = result[-1] if result else None
        if last and message.role == last.message.role != "tool" and not last.message.tool_calls:
            result[-1] = _joined(last, entry)
        else:
            result.append(entry)
    return result


def _joined(first: Entry, second: Entry) -> Entry:
    content = _GAP.join(filter(str.strip, (first.message.content, second.message.content)))
    message = replace(first.message, content=content, tool_calls=second.message.tool_calls)
    return Entry(message, first.at or second.at, **_combined([first, second]))


def _combined(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return what a log says about messages that make one reply. A figure that one of them lacks is unknown."""
    logprobs, tokens = [each.logprob for each in entries], [each.token_ids for each in entries]
    return {
        "model": _last(each.model for each in entries),
        "explicit": _last(each.explicit for each in entries),
        "logprob": None if None in logprobs or not entries else sum(filter(None, logprobs)),
        "sampling": _last(each.sampling for each in entries),
        "token_ids": None if None in tokens or not entries else tuple(i for each in tokens for i in each or ()),
        "cut": any(each.cut for each in entries),
        "siblings": tuple(sibling for each in entries for sibling in each.siblings),
    }


def _last(values: Iterable[Any]) -> Any:
    return next((value for value in reversed(list(values)) if value is not None), None)


def answered(thread: Thread) -> Conversation:
    """Build a conversation as `conversation` does.

    Raises:
        RecordError: no message of the user has an answer.
    """
    result = conversation(thread)
    if not any(message.role == "assistant" for turn in result.turns for message in turn.reply):
        raise RecordError("", "no message of a user with an answer", "leave it out, or log the answers too")
    return result


def conversation(thread: Thread) -> Conversation:
    """Build a conversation. Its id is empty where the log names none."""
    system = [each.message.content for each in thread.entries[: _leading_system(thread.entries)]]
    shared = merged(thread.entries[len(system) : thread.shared])
    entries = merged(thread.entries[max(len(system), thread.shared) :])
    start = next((i for i, each in enumerate(entries) if each.message.role == "user"), len(entries))
    opening = tuple(each.message for each in [*shared, *entries[:start]])
    turns: list[ChatTurn] = []
    while start < len(entries):
        rest = range(start + 1, len(entries))
        stop = next((i for i in rest if entries[i].message.role == "user"), len(entries))
        turns.append(_turn(entries[start], entries[start + 1 : stop]))
        start = stop
    return Conversation(
        id=thread.id or "",
        user=thread.user,
        system=_GAP.join(filter(str.strip, system)) or None,
        tools=thread.tools,
        turns=tuple(turns),
        started_at=thread.started_at or next((each.at for each in entries if each.at), None),
        language=thread.language,
        source=thread.source,
        opening=opening,
    )


def _leading_system(entries: Sequence[Entry]) -> int:
    return next((i for i, each in enumerate(entries) if each.message.role != "system"), len(entries))


def _turn(utterance: Entry, reply: Sequence[Entry]) -> ChatTurn:
    facts = _combined([each for each in reply if each.message.role == "assistant"])
    facts["siblings"] = utterance.siblings + facts["siblings"]
    at = utterance.at or next((each.at for each in reply if each.at), None)
    return ChatTurn(utterance.message.content, tuple(each.message for each in reply), at=at, **facts)


def fingerprint(conversation: Conversation) -> str:
    """Return a hash of who said what when: 32 hex digits. System prompts and ids do not count."""
    said = [conversation.user, conversation.started_at, *map(plain, conversation.opening)]
    for turn in conversation.turns:
        said += [turn.utterance, *map(plain, turn.reply)]
    return sha256(json.dumps(said).encode()).hexdigest()[:32]


def messages(turns: Iterable[ChatTurn]) -> list[Message]:
    """Return turns as messages."""
    return [message for turn in turns for message in (Message("user", turn.utterance), *turn.reply)]


def said(message: Message) -> list[Any]:
    """Return a message as `plain` does, whatever its white space."""
    role, content, calls = plain(message)
    return [role, " ".join(content.split()), calls]


def plain(message: Message) -> list[Any]:
    """Return a message as JSON types, without the ids of tool calls, which change from log to log."""
    return [message.role, message.content, [[call.name, call.arguments] for call in message.tool_calls]]
