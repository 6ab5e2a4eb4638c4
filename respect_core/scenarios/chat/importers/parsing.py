"""Read messages, times and settings in the spellings that chat logs have."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from reprlib import repr as brief
from typing import Any

from respect_core.log.log import RecordError
from respect_core.scenarios.chat.importers.conversation import Message, Role, ToolCall
from respect_core.scenarios.chat.importers.summary import Place

Record = dict[str, Any]
_ROLES: dict[Role, str] = {
    "user": "user human prompter customer",
    "assistant": "assistant gpt chatgpt bing bard model ai bot claude function_call",
    "system": "system developer",
    "tool": "tool function observation ipython function_response",
}
_ROLE: dict[str, Role] = {name: role for role, names in _ROLES.items() for name in names.split()}
_SAMPLING = """temperature top_p top_k min_p max_tokens max_completion_tokens max_output_tokens seed frequency_penalty
    presence_penalty repetition_penalty stop logit_bias"""
_THOUGHTS = {"reasoning", "thinking", "redacted_thinking", "thoughts"}
_RATINGS = {
    1: "1 true up good positive like liked thumbs_up thumbsup thumbs-up yes",
    -1: "-1 0 false down bad negative dislike disliked thumbs_down thumbsdown thumbs-down no",
}
_RATING = {word: rating for rating, words in _RATINGS.items() for word in words.split()}


def first(record: Record, *names: str) -> Any:
    """Return the first of these fields that is neither absent nor empty; None without one."""
    return next((record[name] for name in names if record.get(name) not in (None, "", [], {})), None)


def record_at(record: Record, *path: str) -> Record:
    """Return the object under a path; empty where there is none."""
    for name in path:
        value = record.get(name)
        record = value if isinstance(value, dict) else {}
    return record


def text(value: Any) -> str | None:
    """Return an id or name as text; None where it is empty or no scalar."""
    return clean(str(value)) if value not in (None, "") and isinstance(value, str | int | float) else None


def clean(content: str) -> str:
    """Replace lone surrogates, which cut emoji leave behind and no file can hold."""
    return content if content.isascii() else content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def parsed(value: Any) -> Any:
    """Return what a text of JSON holds; any other value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def dumped(value: Any) -> str:
    """Return a value as JSON, a text as it is."""
    return clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def when(value: Any) -> str | None:
    """Return a time as ISO 8601 in UTC: of a text in that form, or of seconds, ms, us or ns since 1970."""
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    with suppress(ValueError, OverflowError, OSError):
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            while value > 1e11:
                value /= 1000
            return datetime.fromtimestamp(value, UTC).isoformat()
        if isinstance(value, str):
            value = datetime.fromisoformat(value.strip())
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    return None


def thumb(value: Any) -> int | None:
    """Return a rating as 1 or -1; None where it is neither."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return _RATING.get(str(value).lower()) if isinstance(value, str | int) else None


def sampling(settings: Record, prefix: str = "") -> dict[str, Any] | None:
    """Return the settings that shape the distribution of a reply; None where none is logged."""
    return {
        name: settings[prefix + name] for name in _SAMPLING.split() if settings.get(prefix + name) is not None
    } or None


def tools_of(value: Any) -> tuple[str, ...]:
    """Return definitions of tools, each as JSON."""
    value = parsed(value)
    return tuple(map(dumped, value)) if isinstance(value, list) else ()


# --- messages ---------------------------------------------------------------------------------------------------


def messages_of(value: Any, place: Place, field: str = "messages") -> list[Message]:
    """Read a list of messages.

    Raises:
        RecordError: it is no list of messages with known roles.
    """
    value = parsed(value)
    if not isinstance(value, list):
        raise RecordError(field, "no list of messages", f"write the messages as a list (there is {brief(value)})")
    return [message for i, each in enumerate(value) for message in message_of(each, place, f"{field}[{i}]")]


def message_of(item: Any, place: Place, field: str) -> list[Message]:
    """Read one message; results of tools among its parts become messages of their own. Raises RecordError."""
    if not isinstance(item, dict):
        raise RecordError(field, "a message that is no object", "write it with role and content")
    name = item.get("role", item.get("from"))
    role = _ROLE.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise RecordError(f"{field}.role", "an unknown role", f"use user, assistant, system or tool ({brief(name)})")
    content = next((item[key] for key in ("content", "value", "text", "parts") if item.get(key) is not None), "")
    if name == "function_call" and (calls := _calls(parsed(content))):
        return [Message("assistant", "", tuple(calls))]
    parts = _Parts(place, field)
    parts.read(content)
    calls = [*_calls(parsed(item.get("tool_calls"))), *_calls(item.get("function_call")), *parts.calls]
    whole = Message(
        role=role,
        content=parts.content,
        tool_calls=tuple(calls) if role == "assistant" else (),
        tool_call_id=text(item.get("tool_call_id")) if role == "tool" else None,
        name=text(item.get("name")),
    )
    if not parts.results:
        return [whole]
    if role == "tool":
        return [replace(each, name=each.name or whole.name) for each in parts.results]
    return [*parts.results, whole] if whole.content else parts.results


def _calls(value: Any) -> list[ToolCall]:
    calls = []
    for each in [value] if isinstance(value, dict) else value if isinstance(value, list) else []:
        function = each.get("function", each) if isinstance(each, dict) else {}
        if isinstance(function, dict) and (name := text(function.get("name"))):
            arguments: Any = next((function[key] for key in ("arguments", "args", "input") if function.get(key)), {})
            calls.append(ToolCall(name, dumped(arguments), text(first(each, "call_id", "id"))))
    return calls


class _Parts:
    """The content of a message: text, or parts of which some are calls, results or pictures."""

    def __init__(self, place: Place, field: str) -> None:
        self._place, self._field = place, field
        self._texts: list[str] = []
        self.calls: list[ToolCall] = []
        self.results: list[Message] = []

    @property
    def content(self) -> str:
        return "\n".join(self._texts)

    def read(self, content: Any) -> None:
        for part in content if isinstance(content, list) else [content]:
            if isinstance(part, dict):
                self._read_part(part)
            elif part is not None:
                self._texts.append(dumped(part))

    def _read_part(self, part: Record) -> None:
        kind = str(first(part, "type", "content_type") or "text")
        if kind in ("tool_use", "tool_call", "function_call"):
            self.calls += _calls(part)
        elif kind in ("tool_result", "tool_call_response", "function_call_output"):
            inner = _Parts(self._place, self._field)
            inner.read(first(part, "content", "response", "result", "output"))
            id = text(first(part, "tool_use_id", "call_id", "id"))
            self.results.append(Message("tool", inner.content, tool_call_id=id, name=text(part.get("name"))))
        elif kind in _THOUGHTS:
            return  # not a part of what the user read
        elif (words := first(part, "text", "content", "refusal", "parts")) is not None and "url" not in part:
            self.read(words)
        elif kind not in ("text", "input_text", "output_text"):
            medium = next(
                (each for each in ("image", "audio", "video") if each in kind + str(part.get("modality"))), "file"
            )
            self._texts.append(f"[{medium}]")
            reason = f"{'an' if medium[0] in 'ai' else 'a'} {medium} in a message"
            self._place.leave_out(self._field, reason, f"none: the text keeps the place of it as [{medium}]")
