"""Collect the conversations that gateways served into the log of interactions, once they are over.

A reply that a gateway wrote becomes one turn of one interaction, whatever clients do with it later. What came before it
and no gateway wrote, such as examples, an assistant's words that a client made up, or a reply that was cut, is context:
nobody learns from it. Where a conversation branches, because a reply was written again or a message edited, the branch
that went on last continues the interaction, and the others become interactions with what they share as context. So does
what follows after a conversation was collected.

The log is read from the first day on that has something to collect: one with a conversation that was not over, or to
which something was added since, as a gateway does that comes back after a while.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import NamedTuple

from prefect import get_run_logger, task

from respect_core.log import forgetting
from respect_core.log.lengths import Ruler
from respect_core.log.log import RecordError, append_logs
from respect_core.log.records import InteractionLog, PolicyIdentity
from respect_core.log.served_chats import CONVERSATIONS, SERVED_CHATS, ServedChat, days, read
from respect_core.scenario import scenario
from respect_core.scenarios.chat.importers.conversation import (
    ChatTurn,
    Conversation,
    Source,
)
from respect_core.scenarios.chat.importers.parsing import sampling
from respect_core.scenarios.chat.logs import Writer
from respect_core.scenarios.chat.served import Reply, replies
from respect_core.store.base import Store
from respect_core.store.leases import lease
from respect_core.store.manifests import Partition
from tasks.support import progress
from tasks.support.interruption import sleep
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace

_COLLECTED = "gateway/collected/"
"""Ids of collected records, in objects named by the newest day of the log that they were in."""
_FINISHED = "gateway/finished_days.json"
"""How many objects each day of the log had when all in it was collected."""
FORGOTTEN = 30 * 24 * 3600.0
"""Seconds after which the version of a conversation that nobody continues is deleted."""


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
    forgetting.finish(store)
    with progress.bar("collect conversations"), lease(store, "collect", sleep=sleep):
        collected = collect(store, now=time.time())
        forget(store, now=time.time())
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
    stored = store.read_version(_FINISHED)
    finished: dict[str, int] = json.loads(stored[0]) if stored else {}
    log = days(store)
    first = min((day for day, keys in log.items() if finished.get(day) != len(keys)), default=None)
    if first is None:
        return CollectedChats()
    log = {day: keys for day, keys in log.items() if day >= first}
    done = _collected_since(store, first)
    over, running, unfinished = _over(store, log, done, now)
    result = CollectedChats(running=running)
    groups: dict[_Group, list[ServedChat]] = defaultdict(list)
    for chat in read(store, (key for day in log if over for key in log[day])):
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
        store.put_if_absent(f"{_COLLECTED}{max(log)}-{hashlib.sha256(data).hexdigest()[:32]}.json", data)
    # Where another process was faster, the next round reads these days once more.
    finished |= {day: len(keys) for day, keys in log.items() if day not in unfinished}
    store.put_if(_FINISHED, json.dumps(finished).encode(), stored[1] if stored else None)
    return result


def forget(store: Store, *, now: float) -> None:
    """Delete the versions of conversations that nobody has continued for long; these would begin again.

    Args:
        now: seconds since the epoch.
    """
    for key, entry in store.entries(f"{CONVERSATIONS}/").items():
        if entry.modified < now - FORGOTTEN:
            store.delete(key)


def _collected_since(store: Store, day: str) -> set[str]:
    """Return the ids of collected records, as far as they may be in the log of this day or later."""
    keys = [key for key in store.keys(_COLLECTED) if key.removeprefix(_COLLECTED) >= day]
    return {name for key in keys for name in json.loads(store.read(key))}


def _over(store: Store, log: Mapping[str, Sequence[str]], done: set[str], now: float) -> tuple[set[str], int, set[str]]:
    """Return the conversations with something new that are over, how many are not, and on which days these talked.

    Args:
        log: keys of its objects by day.
    """
    ends: dict[str, float] = {}
    new: dict[str, set[str]] = {}  # days with something new, by conversation
    for day, keys in log.items():
        for chat in read(store, keys):
            if not chat.background:
                end = datetime.fromisoformat(chat.time).timestamp() + chat.seconds + chat.idle
                ends[chat.conversation_id] = max(ends.get(chat.conversation_id, 0.0), end)
                if chat.id not in done:
                    new.setdefault(chat.conversation_id, set()).add(day)
    over = {name for name in new if ends[name] <= now}
    unfinished = {day for name in new.keys() - over for day in new[name]}
    return over, len(new) - len(over), unfinished


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


# --- from turns to interactions ---------------------------------------------------------------------------------


def _interactions(
    group: _Group, chats: Iterable[ServedChat], done: set[str], set_aside: Counter[str]
) -> Iterator[InteractionLog]:
    """Yield what is new of a conversation as records of the log."""
    policies = {group.version: PolicyIdentity.of(group.version, group.adapter_hash)}
    ruler = _ruler(group.base, group.scenario)
    writer = Writer(group.round, group.variant, ruler, group.scenario, policies, user=str)
    for path in _paths(list(replies(chats)), done):
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
            known = {"consent": first.chat.consent, "address_prefix": first.chat.address_prefix}
            yield writer.record(new).model_copy(update=known | {"signed_in": first.chat.signed_in})
        except RecordError as error:
            set_aside[error.reason] += 1


def _paths(served: Sequence[Reply], done: set[str]) -> Iterator[list[Reply]]:
    """Yield the paths of new replies: each reply that may be learned from is in one of them."""
    last: dict[str, Reply] = {}
    roots: list[Reply] = []
    for each in served:  # in order of time: of equal beginnings, the latest continues
        parent = last.get(each.before) if each.history else None
        (parent.children if parent else roots).append(each)
        last[each.after] = each
    for each in reversed(served):
        each.end = max([each.chat.time, *(child.end for child in each.children)])
    waiting = roots
    while waiting:
        path, each = list[Reply](), waiting.pop()
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


def _may_learn(reply: Reply, done: set[str]) -> bool:
    return reply.own and not reply.chat.cut and reply.chat.id not in done


def _turn(each: Reply, first: Reply) -> ChatTurn:
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
