"""Collect the conversations that gateways served into the log of interactions, once they are over."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from prefect import get_run_logger, task
from pydantic import BaseModel, ConfigDict

from respect_core.log.lengths import Ruler
from respect_core.log.log import RecordError, append_logs
from respect_core.log.records import InteractionLog, PolicyIdentity
from respect_core.log.served_chats import SERVED_CHATS, ServedChat, read
from respect_core.profiles import Profile
from respect_core.scenario import scenario
from respect_core.scenarios.chat.importers import Conversation, Imported, NothingUsableError, read_conversations
from respect_core.scenarios.chat.logs import Writer, continued
from respect_core.store.base import Store
from respect_core.store.leases import lease
from respect_core.store.manifests import Partition
from tasks.support import progress
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace

_STATE = "gateway/collected.json"


class _Collected(BaseModel):
    """How far conversations are in the log: the number of their records, and of their turns by path."""

    model_config = ConfigDict(extra="forbid")

    records: dict[str, int] = {}
    turns: dict[str, int] = {}


@dataclass(frozen=True)
class CollectedChats:
    """What was collected, and how many conversations are not over yet."""

    conversations: int = 0
    turns: int = 0
    running: int = 0


@task(name="collect conversations", **PATIENT)
def collect_chats(workspace: Workspace, profile: Profile) -> CollectedChats:
    """Bring conversations that are over from the gateways' log into the log of interactions, each turn once.

    Replies that their client cut, and what interfaces asked behind a user's back, are left out. A conversation that
    continues after it was collected becomes another interaction, with what was said before as its context.
    """
    store = workspace.open()
    if not any(store.keys(f"{SERVED_CHATS}/")):
        return CollectedChats()
    with progress.bar("collect conversations"), lease(store, "collect"):
        collected = collect(store, profile, now=time.time())
    get_run_logger().info("collected %d conversations; %d are not over", collected.conversations, collected.running)
    return collected


def collect(store: Store, profile: Profile, *, now: float) -> CollectedChats:
    """Do what `collect_chats` does. One process at a time.

    Args:
        now: seconds since the epoch.
    """
    stored = store.read_version(_STATE)
    before = _Collected.model_validate_json(stored[0]) if stored else _Collected()
    over, running = _over(store, before, now)
    if not over:
        return CollectedChats(running=running)
    from respect_core.model.base import load_processor

    plugin = scenario(profile.scenario)
    ruler = Ruler(load_processor(profile.base), plugin)
    after, conversations, turns = before.model_copy(deep=True), 0, 0
    for partition, chats in _by_partition(store, over).items():
        policies = {chat.version: _policy(chat) for chat in chats}
        writer = Writer(*partition, ruler, plugin.name, policies, user=str)
        logs = list(_logs(writer, chats, after))
        if logs:
            append_logs(store, logs)
        conversations, turns = conversations + len(logs), turns + sum(len(log.turns) for log in logs)
    after.records |= over
    if store.put_if(_STATE, after.model_dump_json().encode(), stored[1] if stored else None) is None:
        raise RuntimeError("another process collects conversations at the same time; its work stands")
    return CollectedChats(conversations, turns, running)


def _over(store: Store, before: _Collected, now: float) -> tuple[dict[str, int], int]:
    """Return the conversations with something new that are over, with their numbers of records; count the others."""
    records: dict[str, int] = {}
    ends: dict[str, float] = {}
    for _, chat in read(store):
        if not chat.background:
            name = chat.conversation_id
            records[name] = records.get(name, 0) + 1
            end = datetime.fromisoformat(chat.time).timestamp() + chat.seconds + chat.idle
            ends[name] = max(ends.get(name, 0.0), end)
    new = {name: count for name, count in records.items() if count > before.records.get(name, 0)}
    over = {name: count for name, count in new.items() if ends[name] <= now}
    return over, len(new) - len(over)


def _by_partition(store: Store, names: Iterable[str]) -> Mapping[Partition, list[ServedChat]]:
    wanted = set(names)
    result: dict[Partition, list[ServedChat]] = {}
    for _, chat in read(store):
        if chat.conversation_id in wanted and not chat.background:
            result.setdefault(Partition(chat.round, chat.variant), []).append(chat)
    return result


def _logs(writer: Writer, chats: Iterable[ServedChat], after: _Collected) -> Iterator[InteractionLog]:
    """Yield what is new of conversations as records of the log, and note it in `after`."""
    for conversation in _conversations(chats):
        done = after.turns.get(conversation.id, 0)
        if done >= len(conversation.turns):
            continue
        try:
            log = writer.record(continued(conversation, done))
        except RecordError:  # nothing but cut replies so far
            continue
        after.turns[conversation.id] = done + len(log.turns)
        yield log


def _conversations(chats: Iterable[ServedChat]) -> Iterator[Conversation]:
    """Yield conversations with all that was said, as an import of such a log does."""
    with TemporaryDirectory(prefix="respect-collect-") as folder:
        file = Path(folder) / "chats.jsonl"
        with file.open("w") as lines:
            lines.writelines(json.dumps(chat.model_dump(mode="json")) + "\n" for chat in chats)
        try:
            # Personal data was masked as it was logged, if at all: now texts and probabilities belong together.
            yield from read_conversations([file], "openai", redact=False, imported=Imported())
        except NothingUsableError:
            return


def _policy(chat: ServedChat) -> PolicyIdentity:
    name, _, number = chat.version.rpartition("/")
    return PolicyIdentity(name=name, version=number, adapter_hash=chat.adapter_hash)
