"""Read files whose records are whole conversations: OpenAI's messages, ShareGPT, WildChat, LMSYS; and TRL's KTO."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from respect_core.log.log import RecordError
from respect_core.scenarios.chat.importers.conversation import Entry, Message, Sibling, Thread
from respect_core.scenarios.chat.importers.parsing import (
    Record,
    first,
    message_of,
    messages_of,
    parsed,
    record_at,
    sampling,
    text,
    thumb,
    tools_of,
    when,
)
from respect_core.scenarios.chat.importers.stitch import Request
from respect_core.scenarios.chat.importers.summary import Place


def read_messages(record: Record, place: Place) -> Iterator[Thread]:
    """Read a conversation of OpenAI's fine-tuning format, ShareGPT, WildChat or LMSYS-Chat-1M.

    Of WildChat's personal data the hashed address stands for the user. Chunks of ShareGPT are joined later.
    """
    field = next((each for each in ("messages", "conversations", "conversation") if each in record), "messages")
    items = parsed(record.get(field))
    entries = _entries(items, place, field)
    if system := text(record.get("system")):
        entries.insert(0, Entry(Message("system", system)))
    _rate_last(entries, record.get("kto_tag"))
    meta = {**record_at(record, "metadata"), **record}
    settings, model = sampling(record), text(record.get("model"))
    yield Thread(
        [
            replace(each, model=each.model or model, sampling=settings) if each.message.role == "assistant" else each
            for each in entries
        ],
        place.source,
        id=text(first(meta, "conversation_hash", "conversation_id", "session_id", "thread_id", "chat_id", "id")),
        user=text(first(meta, "user", "user_id", "end_user", "hashed_ip") or _hashed_ip(items)),
        tools=tools_of(first(record, "tools", "functions")),
        started_at=when(first(meta, "started_at", "timestamp", "created_at", "created", "create_time")),
        language=text(first(meta, "language", "lang")),
    )


def _hashed_ip(items: list[Any]) -> Any:
    return next((each["hashed_ip"] for each in items if each.get("hashed_ip")), None)


def read_preference(record: Record, place: Place) -> Iterator[Thread]:
    """Read a line of OpenAI's preference format: the reply that was not preferred is a sibling."""
    source = record_at(record, "input")
    entries = _entries(parsed(source.get("messages")), place, "input.messages")
    chosen = messages_of(record["preferred_output"], place, "preferred_output")
    rejected = tuple(messages_of(record.get("non_preferred_output") or [], place, "non_preferred_output"))
    utterance = next((each.message.content for each in reversed(entries) if each.message.role == "user"), "")
    siblings = (Sibling(utterance, rejected),) if rejected else ()
    entries += [Entry(each, siblings=siblings if not i else ()) for i, each in enumerate(chosen)]
    yield Thread(entries, place.source, id=text(record.get("id")), tools=tools_of(source.get("tools")))


def read_kto(record: Record, place: Place) -> Iterator[Request]:
    """Read a row of TRL's KTO or preference format as a request that repeats its history."""
    prompt = _texts(record.get("prompt"), "user", place, "prompt")
    named = "completion" if "completion" in record else "chosen"
    chosen = [Entry(each) for each in _texts(record.get(named), "assistant", place, named)]
    if not chosen:
        raise RecordError(named, "the completion is empty", "add it, or leave the row out")
    _rate_last(chosen, record.get("label"))
    siblings: list[Entry] = []
    if "rejected" in record:
        siblings = [Entry(each) for each in _texts(record["rejected"], "assistant", place, "rejected")]
    yield Request(
        messages=[*prompt, *(each.message for each in chosen[:-1])],
        answers=[chosen[-1], *siblings[-1:]],
        source=place.source,
        tools=tools_of(record.get("tools")),
        user=text(first(record, "user", "user_id")),
    )


def _entries(value: Any, place: Place, field: str) -> list[Entry]:
    """Read messages with what stands beside each: its time, model and thumb. Raises RecordError."""
    if not isinstance(value, list):
        messages_of(value, place, field)  # says what is wrong
    entries = []
    for i, item in enumerate(value):
        for message in message_of(item, place, f"{field}[{i}]"):
            at = when(first(item, "timestamp", "created_at", "create_time"))
            ratings = [item.get(name) for name in ("rating", "feedback", "thumb") if message.role == "assistant"]
            rated = next(
                (thumb(each) for each in ratings if isinstance(each, bool | str)), None
            )  # a number has a scale
            entries.append(Entry(message, at, text(item.get("model")), rated))
    return entries


def _texts(value: Any, role: Any, place: Place, field: str) -> list[Message]:
    """Read a text, or messages, as TRL takes either. Raises RecordError."""
    return [Message(role, value)] if isinstance(value, str) else messages_of(value, place, field)


def _rate_last(entries: list[Entry], label: Any) -> None:
    """Give a thumb to the last message of the assistant."""
    if (rating := thumb(label)) is None:
        return
    for i in reversed(range(len(entries))):
        if entries[i].message.role == "assistant":
            entries[i] = replace(entries[i], explicit=rating)
            return
