"""Stitch the requests of a gateway into conversations.

A gateway logs n turns as n requests, each of which repeats what came before, and names no conversation. Requests become
paths of a tree: a message is found again by a hash of all messages up to it. White space, thoughts, ids of tool calls
and times in a system prompt do not count; once the assistant has answered, nor does the rest of the system prompt.

Texts are kept once, however many requests repeat them: memory holds the conversations, not the log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import blake2b
from typing import NamedTuple

from respect_core.log.log import RecordError
from respect_core.scenarios.chat.importers.branches import Node, paths
from respect_core.scenarios.chat.importers.conversation import Entry, Message, Source, Thread, merged, plain
from respect_core.scenarios.chat.importers.parsing import dumped, parsed

_AT_ONCE = 600  # seconds within which the same first question is a regeneration
_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
_TIME = re.compile(
    r"\d+|\b(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?|jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?"
    r"|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?|[ap]m|utc|gmt)\b",
    re.IGNORECASE,
)
# What chat interfaces ask a model behind the user's back, about a conversation that they quote.
_BACKGROUND = re.compile(
    r"\s*(?:#+ *task:?\s+)?(?:please )?"
    r"(?:generate|write|create|suggest|provide|give|come up with|summari[sz]e|analy[sz]e)"
    r"\b.{0,160}?(?:\btitles?\b|\btags\b|\bfollow-?up (?:questions|prompts)|\bsearch quer(?:y|ies)|\bemoji\b).{0,400}?"
    r"(?:\bchat[ _]history|\bconversation\b|\bthis chat\b|<chat_history>)"
    r"|\s*#+ *task:?\s+.{0,60}(?:\bautocompletion\b|\btitle\b|\btags\b)"
    r"|\s*#+ *task:?\s+summari[sz]e the conversation history that will be compacted\b"
    r"|\s*#+ *task:?\s.*\n<chat_history>\n"  # whatever Open WebUI asks about what was said
    r"|\s*your task is to reflect the speaker's .{0,80}\bemoji\b"
    r"|\s*you have been provided with a set of responses from various models",
    re.IGNORECASE | re.DOTALL,
)
_BACKGROUND_SYSTEM = re.compile(
    r"\s*Available Tools:.*\bYour task is to choose\b|\s*You are Open WebUI's private\b", re.DOTALL
)


@dataclass
class Request:
    """A request to a model and what it answered; of several answers the user saw the first."""

    messages: Sequence[Message]
    answers: Sequence[Entry]
    source: Source
    id: str | None = None
    user: str | None = None
    session: str | None = None
    tools: tuple[str, ...] = ()
    trace: str | None = None  # whose user, session and rating another record may hold
    fallback: bool = False  # counts only where its trace has no other request
    format: str = ""

    @property
    def at(self) -> str | None:
        """When it was asked."""
        return self.answers[0].at


class Rating(NamedTuple):
    """The thumb that a user gave to a message, request or trace of this id; None for a value on another scale."""

    target: str
    value: int | None
    name: str = ""  # of the score: where one of its values is no thumb, none of them is


class Owner(NamedTuple):
    """Whose a trace is."""

    trace: str
    user: str | None
    session: str | None


class Stitcher:
    """The requests of a log, and whose traces they are."""

    def __init__(self) -> None:
        self.owners: dict[str, Owner] = {}
        self._requests: list[Request] = []
        self._ids: set[tuple[str, str]] = set()
        self._texts: dict[Message, Message] = {}

    def add(self, request: Request) -> None:
        """Take a request.

        Raises:
            RecordError: it is a duplicate, a background call, or has no question or no answer.
        """
        answer = request.answers[0].message
        utterance = next((each.content for each in reversed(request.messages) if each.role == "user"), None)
        if request.id and (request.format, request.id) in self._ids:
            raise duplicate()
        if utterance is None:
            raise RecordError("messages", "no message of a user", "none: there is nothing to learn from")
        if is_background_call(request.messages):
            raise background()
        if not answer.content.strip() and not answer.tool_calls:
            raise RecordError("response", "the answer is empty", "none: there is nothing to learn from")
        if request.id:
            self._ids.add((request.format, request.id))
        request.messages = tuple(self._texts.setdefault(each, each) for each in request.messages)
        request.answers = [
            replace(each, message=self._texts.setdefault(each.message, each.message)) for each in request.answers
        ]
        self._requests.append(request)

    def threads(self, ratings: Mapping[str, int]) -> Iterator[Thread | Request]:
        """Yield the conversations of each user, and the requests that repeat another's answer.

        Args:
            ratings: thumbs by request, or by trace: those are of its last answer.
        """
        requests = sorted(self._requests, key=lambda each: each.at or "")
        whole = {each.trace for each in requests if not each.fallback}
        requests = [each for each in requests if not each.fallback or each.trace not in whole]
        last = {each.trace: each for each in requests}
        groups: dict[tuple[str | None, str | None], list[Request]] = {}
        for each in requests:
            owner = self.owners.get(each.trace or "", Owner("", None, None))
            each.user, each.session = each.user or owner.user, each.session or owner.session
            rating = ratings.get(each.id or "")
            if rating is None and last[each.trace] is each:
                rating = ratings.get(each.trace or "")
            if rating is not None:
                each.answers = [replace(each.answers[0], explicit=rating), *each.answers[1:]]
            groups.setdefault((each.user, each.session), []).append(each)
        for group in groups.values():
            tree = _Tree()
            for each in _with_history(group):
                if not tree.add(each):
                    yield each
            yield from tree.threads()


def is_background(utterance: str) -> bool:
    """Tell whether an interface asked this behind the user's back."""
    return _BACKGROUND.match(utterance) is not None


def is_background_call(messages: Sequence[Message]) -> bool:
    """Tell whether messages to which no assistant has answered yet are such a question."""
    if any(each.role == "assistant" for each in messages):
        return False
    utterance = next((each.content for each in reversed(messages) if each.role == "user"), "")
    return is_background(utterance) or any(
        each.role == "system" and _BACKGROUND_SYSTEM.match(each.content) for each in messages
    )


def background() -> RecordError:
    """Return the error of a call that no user made."""
    return RecordError("", "a background call, such as for a title or tags", "none: nobody read the answer")


def duplicate() -> RecordError:
    """Return the error of a record that is in the import already."""
    return RecordError("", "a duplicate, counted once", "none")


def _with_history(requests: list[Request]) -> list[Request]:
    """Put the earlier exchanges of a session before each request, where none of them has any history."""
    if requests[0].session is None or any(each.role == "assistant" for r in requests for each in r.messages):
        return requests
    history: list[Message] = []
    result = []
    for each in requests:
        system = [message for message in each.messages if message.role == "system"]
        rest = [message for message in each.messages if message.role != "system"]
        result.append(replace(each, messages=[*system, *history, *rest]))
        history += [*rest, each.answers[0].message]
    return result


class _Tree:
    """The requests of one user, or session, as one tree."""

    def __init__(self) -> None:
        self._roots: list[Node] = []
        self._nodes: dict[object, Node] = {}  # by what was said up to it
        self._asked: dict[object, str | None] = {}  # when a conversation began with these words, by the same key

    def add(self, request: Request) -> bool:
        """Add a request; tell whether it brought an answer that was not there."""
        leading, rest = _split(request.messages)
        system = _TIME.sub("", " ".join(each.content for each in leading).lower())
        history = merged(map(Entry, rest))
        ends = [_keys([*history, each], system) for each in request.answers]
        keys = ends[0][:-1]
        known = next((i for i in range(len(keys), 0, -1) if keys[i - 1] in self._nodes), 0)
        # Who asks the same an hour later begins a new conversation; at once, it is a regeneration.
        again = len(keys) == 1 == known and _apart(self._asked.get(keys[0]), request.at)
        known = 0 if again else known
        node = self._nodes[keys[known - 1]] if known else None
        for key, entry in zip(keys[known:], history[known:], strict=True):
            node = self._nodes[key] = self._cut(node, entry) or self._child(node, entry)
        if len(keys) == 1:
            self._asked[keys[0]] = request.at
        new = False
        for number, answer in enumerate(request.answers):
            key = ends[number][-1]
            child = None if again else self._nodes.get(key)
            if child is None:
                child = self._nodes[key] = self._child(node, answer)
                if node and number:  # the user saw the first answer, and of equals the last counts
                    node.children.insert(0, node.children.pop())
            elif child.info is not None:
                continue
            child.entry, child.info, new = answer, request, new or not number
        return new

    def _child(self, node: Node | None, entry: Entry) -> Node:
        child = Node(entry)
        (node.children if node else self._roots).append(child)
        return child

    def _cut(self, node: Node | None, entry: Entry) -> Node | None:
        """Return the logged answer of which the client kept only this beginning."""
        said = entry.message.content.strip()
        if entry.message.role != "assistant" or not said:
            return None
        for child in node.children if node else ():
            if child.info and child.entry and child.entry.message.content.lstrip().startswith(said):
                child.entry = replace(child.entry, message=entry.message, cut=True)
                return child
        return None

    def threads(self) -> Iterator[Thread]:
        """Yield the conversations of the tree."""
        for root in self._roots:
            for nodes, entries, shared in paths(root):
                requests = [node.info for node in nodes[shared:] if node.info]
                if not requests:
                    continue
                request: Request = requests[0]
                system = [Entry(each) for each in _split(request.messages)[0]]
                yield Thread(
                    [*system, *entries],
                    request.source,
                    id=request.session or request.trace or request.id,
                    user=request.user,
                    tools=requests[-1].tools,
                    started_at=request.at,
                    shared=shared + len(system) if shared else 0,
                    format=request.format,
                )


def _split(messages: Sequence[Message]) -> tuple[Sequence[Message], Sequence[Message]]:
    """Split off the system prompts at the beginning."""
    start = next((i for i, each in enumerate(messages) if each.role != "system"), len(messages))
    return messages[:start], messages[start:]


def _apart(earlier: str | None, later: str | None) -> bool:
    """Tell whether two times are known and far apart."""
    if earlier is None or later is None:
        return False
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds() > _AT_ONCE


def _keys(entries: Sequence[Entry], system: str) -> list[object]:
    """Return a key for each prefix; the system prompt is part of it until the assistant has answered."""
    digest, keys, answered = blake2b(digest_size=16), list[object](), False
    for entry in entries:
        role, content, calls = plain(entry.message)
        said = " ".join(_THOUGHT.sub("", content).split())
        calls = [[name, dumped(parsed(arguments))] for name, arguments in calls]
        digest.update(json.dumps([role, said, calls]).encode())
        answered = answered or role == "assistant"
        keys.append(digest.digest() if answered else (system, digest.digest()))
    return keys
