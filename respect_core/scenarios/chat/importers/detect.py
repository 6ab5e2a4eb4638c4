"""Know the formats of chat logs, and tell which of them a record has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from respect_core.log.log import RecordError
from respect_core.scenarios.chat.importers import gateways, messages, spans, trees
from respect_core.scenarios.chat.importers.conversation import Thread
from respect_core.scenarios.chat.importers.files import ChatLogError
from respect_core.scenarios.chat.importers.parsing import Record, parsed, record_at
from respect_core.scenarios.chat.importers.stitch import Owner, Rating, Request
from respect_core.scenarios.chat.importers.summary import Place

Item = Thread | Request | Rating | Owner | trees.Tree | RecordError
_LISTS = ("data", "traces", "chats", "observations", "scores", "records", "rows", "items", "conversations")


@dataclass(frozen=True)
class Format:
    """A format: its name, whether a record looks like it, and how to read one."""

    name: str
    fits: Callable[[Record], bool]
    read: Callable[[Record, Place], Iterator[Item]]


def _has(*names: str) -> Callable[[Record], bool]:
    return lambda record: all(name in record for name in names)


def _items_have(field: str, *names: str) -> Callable[[Record], bool]:
    """Return a test for records with a list in a field whose first item has one of these fields."""

    def test(record: Record) -> bool:
        items = parsed(record.get(field))
        return isinstance(items, list) and (
            not items or (isinstance(items[0], dict) and any(n in items[0] for n in names))
        )

    return test


def _is_sharegpt(record: Record) -> bool:
    return (
        any(
            field in record and _items_have(field, "from", "role")(record)
            for field in ("conversations", "conversation")
        )
        and "conversation_id" not in record
    )


def _is_openwebui(record: Record) -> bool:
    rated = "data" in record and "meta" in record and "rating" in record_at(record, "data")
    return rated or "history" in record or "history" in record_at(record, "chat")


def _is_chatgpt(record: Record) -> bool:
    return "mapping" in record or ("rating" in record and "conversation_id" in record and "messages" not in record)


def _is_otel(record: Record) -> bool:
    names = {"resourceSpans", "resource_spans", "resourceLogs", "resource_logs"}
    return bool(record.keys() & names) or (
        "attributes" in record and bool(record.keys() & {"context", "spanId", "span_id"})
    )


def _is_openassistant(record: Record) -> bool:
    return any(
        names <= record.keys() for names in ({"message_tree_id"}, {"thread_id", "thread"}, {"message_id", "text"})
    )


def _is_pair(record: Record) -> bool:
    request, response = (
        ("request" in record or "request_body" in record),
        ("response" in record or "response_body" in record),
    )
    return request and response


FORMATS = (
    Format("helicone", _has("request_id", "request_body"), gateways.read_helicone),
    Format("litellm", _has("call_type", "messages"), gateways.read_litellm),
    Format("openai", _is_pair, gateways.read_pair),
    Format("mlflow", _has("info", "data"), spans.read_mlflow),
    Format("otel", _is_otel, spans.read_otel),
    Format("langfuse", spans.is_langfuse, spans.read_langfuse),
    Format("openassistant", _is_openassistant, trees.read_openassistant),
    Format("chatgpt", _is_chatgpt, trees.read_chatgpt),
    Format("openwebui", _is_openwebui, trees.read_openwebui),
    Format("wildchat", _has("conversation_hash", "conversation"), messages.read_wildchat),
    Format("lmsys", _has("conversation_id", "conversation"), messages.read_lmsys),
    Format("sharegpt", _is_sharegpt, messages.read_sharegpt),
    Format(
        "kto", lambda record: "prompt" in record and ("completion" in record or "chosen" in record), messages.read_kto
    ),
    Format("messages", lambda record: "messages" in record or "preferred_output" in record, messages.read_messages),
)
"""The formats, each before those that its records could be taken for."""


def named(name: str) -> Format:
    """Return the format of this name. Raises ChatLogError where there is none."""
    for format in FORMATS:
        if format.name == name:
            return format
    raise ChatLogError(f"format {name!r} is not known; there are: {', '.join(sorted(each.name for each in FORMATS))}")


def format_of(record: Record) -> Format:
    """Return the format of a record. Raises RecordError where none fits."""
    for format in FORMATS:
        if format.fits(record):
            return format
    fields = ", ".join(sorted(map(str, record))[:12]) or "none"
    names = ", ".join(sorted(each.name for each in FORMATS))
    raise RecordError("", "no known format", f"write it in one of {names} (its fields: {fields})")


def unwrapped(record: Any) -> list[Any]:
    """Return the records in a page of an API or an object that holds a list of them; else the record itself."""
    if isinstance(record, list) and _items_have("messages", "role", "from")({"messages": record}):
        return [{"messages": record}]
    if isinstance(record, dict) and not any(format.fits(record) for format in FORMATS):
        for name in _LISTS:
            items = record.get(name)
            if isinstance(items, list) and items and isinstance(items[0], dict):
                return items
    return [record]
