"""Collect the conversations that gateways served into the log of interactions, once they are over.

A reply that a gateway wrote becomes one turn of one interaction, whatever clients do with it later. What came before it
and no gateway wrote, such as examples, an assistant's words that a client made up, or a reply that was cut, is context:
nobody learns from it. Where a conversation branches, because a reply was written again or a message edited, the branch
that went on last continues the interaction, and the others become interactions with what they share as context. So does
what follows after a conversation was collected.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import NamedTuple

from prefect import get_run_logger, task

from respect_core.log.lengths import Ruler
from respect_core.log.log import RecordError, append_logs
from respect_core.log.records import InteractionLog, PolicyIdentity
from respect_core.log.served_chats import SERVED_CHATS, ServedChat, read
from respect_core.scenario import scenario
from respect_core.scenarios.chat.importers.conversation import (
    ChatTurn,
    Conversation,
    Entry,
    Message,
    Source,
    Thread,
    conversation,
    messages,
    said,
)
from respect_core.scenarios.chat.importers.parsing import messages_of, sampling, tools_of
from respect_core.scenarios.chat.importers.summary import Imported, Place
from respect_core.scenarios.chat.logs import Writer
from respect_core.store.base import Store
from respect_core.store.leases import lease
from respect_core.store.manifests import Partition
from tasks.support import progress
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace

_COLLECTED = "gateway/collected/"


@dataclass
class CollectedChats:
    """What was collected, and how many conversations are not over yet."""

    conversations: int = 0
    turns: int = 0
    running: int = 0
    set_aside: Counter[str] = field(default_factory=Counter)  # interactions by reason


@task(name="collect conversations", **PATIENT)
def collect_chats(workspace: Workspace) -> CollectedChats:
    """Bring conversations that are over from the gateways' log into the log of interactions, each reply once."""
    store = workspace.open()
    if not any(store.keys(f"{SERVED_CHATS}/")):
        return CollectedChats()
    with progress.bar("collect conversations"), lease(store, "collect"):
        collected = collect(store, now=time.time())
    log = get_run_logger()
    log.info("collected %d conversations; %d are not over", collected.conversations, collected.running)
    for reason, count in collected.set_aside.items():
        log.warning("set aside %d conversations: %s", count, reason)
    return collected


def collect(store: Store, *, now: float) -> CollectedChats:
    """Do what `collect_chats` does. One process at a time.

    Args:
        now: seconds since the epoch.
    """
    done = {name for key in store.keys(_COLLECTED) for name in json.loads(store.read(key))}
    over, running = _over(store, done, now)
    result = CollectedChats(running=running)
    if not over:
        return result
    groups: dict[_Group, list[ServedChat]] = defaultdict(list)
    for chat in read(store):
        if chat.conversation_id in over and not chat.background:
            groups[_group(chat)].append(chat)
    logs: dict[Partition, list[InteractionLog]] = defaultdict(list)
    for group, chats in groups.items():
        for interaction in _interactions(group, chats, done, result.set_aside):
            logs[Partition(group.round, group.variant)].append(interaction)
    for partition_logs in logs.values():
        append_logs(store, partition_logs)
        result.conversations += len(partition_logs)
        result.turns += sum(len(log.turns) for log in partition_logs)
    if new := sorted({chat.id for chats in groups.values() for chat in chats} - done):
        data = json.dumps(new).encode()
        store.put_if_absent(f"{_COLLECTED}{hashlib.sha256(data).hexdigest()[:32]}.json", data)
    return result


def _over(store: Store, done: set[str], now: float) -> tuple[set[str], int]:
    """Return the conversations with something new that are over, and count those that are not."""
    ends: dict[str, float] = {}
    new: set[str] = set()
    for chat in read(store):
        if not chat.background:
            end = datetime.fromisoformat(chat.time).timestamp() + chat.seconds + chat.idle
            ends[chat.conversation_id] = max(ends.get(chat.conversation_id, 0.0), end)
            if chat.id not in done:
                new.add(chat.conversation_id)
    over = {name for name in new if ends[name] <= now}
    return over, len(new) - len(over)


class _Group(NamedTuple):
    """The records among which conversations are put together: one policy wrote them, for one user."""

    conversation: str
    user: str
    round: int
    variant: str
    version: str
    adapter_hash: str
    scenario: str
    base: str


def _group(chat: ServedChat) -> _Group:
    return _Group(
        *(chat.conversation_id, chat.user, chat.round, chat.variant),
        *(chat.version, chat.adapter_hash, chat.scenario, chat.base),
    )


# --- from records to turns --------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Reply:
    """A record as a turn: what was said before it, the user's message, and all that the assistant wrote to it.

    `before` and `after` are keys of what was said up to the user's message, and up to the reply.
    """

    chat: ServedChat
    system: str | None
    tools: tuple[str, ...]
    history: tuple[Message, ...]
    utterance: str
    reply: tuple[Message, ...]
    logprobs: tuple[float, ...] | None
    before: str
    after: str
    own: bool = True  # a gateway wrote all of the reply
    children: list[_Reply] = field(default_factory=list)
    end: str = ""  # when the last reply below it was written


def _replies(chats: Iterable[ServedChat]) -> Iterator[_Reply]:
    """Yield the records as turns. Where tools were called in between, the last record has the whole reply."""
    parts: dict[str, _Reply] = {}  # by what was said up to them
    whole: dict[str, _Reply] = {}
    for chat in sorted(chats, key=lambda each: each.time):
        try:
            each = _read(chat)
        except RecordError:  # nothing that a gateway of this release writes
            continue
        if len(each.reply) > 1:  # calls of tools, and what came back
            start = max((n for n in range(1, len(each.reply)) if each.reply[n - 1].role == "assistant"), default=0)
            part = parts.get(_key([*each.history, Message("user", each.utterance), *each.reply[:start]]))
            each.own = part is not None and part.own and not part.chat.cut
            if part is not None:
                whole.pop(part.chat.id, None)
                known = part.logprobs is not None and each.logprobs is not None
                each.logprobs = (*(part.logprobs or ()), *(each.logprobs or ())) if known else None
        parts[each.after] = whole[chat.id] = each
    yield from whole.values()


def _read(chat: ServedChat) -> _Reply:
    source = Source("served", chat.id)
    place = Place(source, Imported())
    asked = messages_of(chat.request["messages"], place)
    (choice,) = chat.response["choices"]
    answer = messages_of([{"role": "assistant", **choice["message"]}], place)
    # As the gateway read it, and showed it to the model.
    spoken = conversation(Thread(list(map(Entry, asked)), source, tools=tools_of(chat.request.get("tools"))))
    *earlier, last = spoken.turns
    history, reply = (*spoken.opening, *messages(earlier)), (*last.reply, *answer)
    content = choice.get("logprobs", {}).get("content")
    return _Reply(
        chat,
        spoken.system,
        spoken.tools,
        history,
        last.utterance,
        reply,
        None if content is None else tuple(each["logprob"] for each in content),
        before=_key(history),
        after=_key([*history, Message("user", last.utterance), *reply]),
    )


def _key(spoken: Iterable[Message]) -> str:
    """Return a key of messages; white space and ids of calls do not count."""
    return hashlib.sha256(json.dumps(list(map(said, spoken))).encode("utf-8", "surrogatepass")).hexdigest()


# --- from turns to interactions ---------------------------------------------------------------------------------


def _interactions(
    group: _Group, chats: Iterable[ServedChat], done: set[str], set_aside: Counter[str]
) -> Iterator[InteractionLog]:
    """Yield what is new of a conversation as records of the log."""
    policies = {group.version: PolicyIdentity.of(group.version, group.adapter_hash)}
    ruler = _ruler(group.base, group.scenario)
    writer = Writer(group.round, group.variant, ruler, group.scenario, policies, user=str)
    for path in _paths(list(_replies(chats)), done):
        turns, first = [_turn(each, path[0]) for each in path], path[0]
        follow_ups = [child for child in path[-1].children if child not in path]
        if follow_ups:  # a reply to it was cut, or is an interaction of its own
            turns.append(ChatTurn(max(follow_ups, key=lambda each: each.chat.time).utterance))
        new = Conversation(
            id=f"{group.conversation}/{first.chat.id}",
            user=group.user,
            system=first.system,
            tools=first.tools,
            turns=tuple(turns),
            started_at=first.chat.time,
            language=None,
            source=Source("served", first.chat.id),
            opening=first.history,
        )
        try:
            yield writer.record(new)
        except RecordError as error:
            set_aside[error.reason] += 1


def _paths(replies: Sequence[_Reply], done: set[str]) -> Iterator[list[_Reply]]:
    """Yield the paths of new replies: each reply that may be learned from is in one of them."""
    last: dict[str, _Reply] = {}
    roots: list[_Reply] = []
    for each in replies:  # in order of time: of equal beginnings, the latest continues
        parent = last.get(each.before) if each.history else None
        (parent.children if parent else roots).append(each)
        last[each.after] = each
    for each in reversed(replies):
        each.end = max([each.chat.time, *(child.end for child in each.children)])
    waiting = roots
    while waiting:
        path, each = list[_Reply](), waiting.pop()
        while True:
            if _may_learn(each, done):
                path.append(each)
            branches = sorted(each.children, key=lambda child: (not child.chat.cut, child.own, child.end))
            following = branches.pop() if branches else None
            waiting += branches
            if following is None or (path and not _may_learn(following, done)):
                waiting += [following] if following else []
                break
            each = following
        if path:
            yield path


def _may_learn(reply: _Reply, done: set[str]) -> bool:
    return reply.own and not reply.chat.cut and reply.chat.id not in done


def _turn(each: _Reply, first: _Reply) -> ChatTurn:
    alike = (each.system, each.tools) == (first.system, first.tools)  # else training sees another prompt
    return ChatTurn(
        each.utterance,
        each.reply,
        logprob=sum(each.logprobs) if each.logprobs is not None and alike else None,
        sampling=sampling(each.chat.request),
        model=each.chat.version,
        at=each.chat.time,
    )


@cache
def _ruler(base: str, name: str) -> Ruler:
    from respect_core.model.base import load_processor

    return Ruler(load_processor(base), scenario(name))
