"""Know the formats of chat logs, and tell which of them a record has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from respect_core.log.log import RecordError
from respect_core.scenarios.chat.importers import gateways, messages, spans, trees
from respect_core.scenarios.chat.importers.conversation import Thread
from respect_core.scenarios.chat.importers.parsing import Record, record_at
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


def _has_any(*names: str) -> Callable[[Record], bool]:
    return lambda record: not record.keys().isdisjoint(names)


def _is_pair(record: Record) -> bool:
    return _has_any("request", "request_body")(record) and _has_any("response", "response_body")(record)


def _is_otel(record: Record) -> bool:
    batch = _has_any("resourceSpans", "resource_spans", "resourceLogs", "resource_logs")(record)
    return batch or ("attributes" in record and _has_any("context", "spanId", "span_id")(record))


def _is_openassistant(record: Record) -> bool:
    return any(
        names <= record.keys() for names in ({"message_tree_id"}, {"thread_id", "thread"}, {"message_id", "text"})
    )


def _is_chatgpt(record: Record) -> bool:
    return "mapping" in record or ({"rating", "conversation_id"} <= record.keys() and "messages" not in record)


def _is_openwebui(record: Record) -> bool:
    rated = "meta" in record and "rating" in record_at(record, "data")
    return rated or "history" in record or "history" in record_at(record, "chat")


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
    Format("wildchat", _has("conversation_hash", "conversation"), messages.read_messages),
    Format("lmsys", _has("conversation_id", "conversation"), messages.read_messages),
    Format("sharegpt", _has_any("conversations", "conversation"), messages.read_messages),
    Format("kto", lambda record: "prompt" in record and _has_any("completion", "chosen")(record), messages.read_kto),
    Format("messages", _has("preferred_output"), messages.read_preference),
    Format("messages", _has("messages"), messages.read_messages),
)
"""The formats, each before those that its records could be taken for."""


NAMES = sorted({each.name for each in FORMATS})


def format_of(record: Record, name: str | None = None) -> Format:
    """Return the format of a record, of those with a name if one is given. Raises RecordError where none fits."""
    for format in FORMATS:
        if name in (None, format.name) and format.fits(record):
            return format
    fields = ", ".join(sorted(map(str, record))[:12]) or "none"
    reason = "no known format" if name is None else f"not of format {name}"
    raise RecordError("", reason, f"write it in one of {', '.join(NAMES)} (its fields: {fields})")


def unwrapped(record: Any) -> list[Any]:
    """Return the records in a page of an API or an object that holds a list of them; else the record itself."""
    if isinstance(record, list) and record and isinstance(record[0], dict) and "role" in record[0]:
        return [{"messages": record}]
    if isinstance(record, dict) and not any(format.fits(record) for format in FORMATS):
        for name in _LISTS:
            items = record.get(name)
            if isinstance(items, list) and items and isinstance(items[0], dict):
                return items
    return [record]
