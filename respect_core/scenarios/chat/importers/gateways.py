"""Read the records of gateways: a request, which repeats the whole history, and what was answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from respect_core.log.log import RecordError
from respect_core.scenarios.chat.importers.conversation import Entry, Message
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
from respect_core.scenarios.chat.importers.stitch import Request, background
from respect_core.scenarios.chat.importers.summary import Place

_CHAT_CALLS = {"completion", "acompletion", "responses", "aresponses", "anthropic_messages", "text_completion", ""}
_CANCELLED = -3  # Helicone's status of a request whose client went away


def read_litellm(record: Record, place: Place) -> Iterator[Request]:
    """Read a StandardLoggingPayload of LiteLLM."""
    call, metadata = str(record.get("call_type") or ""), record_at(record, "metadata")
    if call not in _CHAT_CALLS:
        raise RecordError("call_type", "a call that is no chat", f"none: {call!r} has no conversation")
    if record.get("status") == "failure":
        raise RecordError("status", "a request that failed", "none: there is no answer")
    if record_at(metadata, "requester_metadata").get("task"):
        raise background()
    settings = record_at(record, "model_parameters")
    body = {**settings, "messages": parsed(record.get("messages")), "model": record.get("model")}
    yield exchange(
        body,
        record.get("response"),
        place,
        id=text(record.get("id")),
        at=when(record.get("startTime")),
        user=text(first(record, "end_user") or metadata.get("user_api_key_end_user_id")),
        session=text(first(record_at(metadata, "requester_metadata"), "session_id", "chat_id")),
    )


def read_pair(record: Record, place: Place) -> Iterator[Request]:
    """Read a request body beside its response body, as a proxy in front of any OpenAI-compatible server writes them."""
    request, response = (first(record, name, f"{name}_body") for name in ("request", "response"))
    request, response = (each.get("body", each) if isinstance(each, dict) else each for each in (request, response))
    body = parsed(request)
    yield exchange(
        body if isinstance(body, dict) else {},
        response,
        place,
        id=text(first(record, "id", "request_id", "custom_id")),
        at=when(first(record, "timestamp", "created_at", "started_at", "time", "at")),
        user=text(first(record, "user", "user_id")),
        session=text(first(record, "session_id", "conversation_id")),
    )


def read_helicone(record: Record, place: Place) -> Iterator[Request]:
    """Read a request that Helicone exported with its bodies."""
    if not (body := parsed(record.get("request_body"))) or not isinstance(body, dict):
        raise RecordError("request_body", "the request has no body", "export with --include-body")
    status = record.get("response_status")
    if isinstance(status, int) and status >= 400:
        raise RecordError("response_status", "a request that failed", "none: there is no answer")
    session = next(
        (v for k, v in record_at(record, "request_properties").items() if k.lower() == "helicone-session-id"), None
    )
    yield exchange(
        body,
        record.get("response_body"),
        place,
        id=text(record.get("request_id")),
        at=when(record.get("request_created_at")),
        user=text(record.get("request_user_id")),
        session=text(session),
        rating=thumb(record.get("feedback_rating")),
        cut=status == _CANCELLED,
    )


# --- requests and responses -------------------------------------------------------------------------------------


def exchange(
    body: Record,
    response: Any,
    place: Place,
    *,
    id: str | None,
    at: str | None,
    user: str | None,
    session: str | None,
    rating: int | None = None,
    cut: bool = False,
    trace: str | None = None,
    fallback: bool = False,
) -> Request:
    """Read a request and its response, in the shapes of OpenAI's two chat APIs and of Anthropic's.

    Raises:
        RecordError: there are no messages, or no answer.
    """
    said = first(body, "messages", "input", "prompt")
    messages = [Message("user", said)] if isinstance(said, str) else _input(said, place)
    if system := first(body, "system", "instructions"):
        messages = [*message_of({"role": "system", "content": system}, place, "system"), *messages]
    answers = _answers(response, place)
    whole = record_at({"response": parsed(response)}, "response")
    model = text(whole.get("model")) or text(body.get("model"))
    entries = [
        Entry(
            message,
            at=at or when(whole.get("created")),
            model=model,
            explicit=None if number else rating,
            logprob=_logprob(choice),
            sampling=sampling(body),
            token_ids=_token_ids(choice),
            cut=cut or choice.get("cut") is True,
        )
        for number, (message, choice) in enumerate(answers)
    ]
    user = user or text(first(body, "user", "safety_identifier"))
    id = id or text(whole.get("id"))
    tools = tools_of(first(body, "tools", "functions"))
    return Request(messages, entries, place.source, id, user, session, tools, trace, fallback)


def _input(said: Any, place: Place) -> list[Message]:
    """Read messages, or the items of the Responses API, whose calls and results of tools have no role."""
    items = parsed(said)
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise RecordError("messages", "the request has no messages", "log the body of the request with its messages")
    return messages_of([_with_role(each) for each in items], place)


def _with_role(item: Any) -> Any:
    if isinstance(item, dict) and "role" not in item:
        if item.get("type") == "function_call":
            return {"role": "assistant", "content": [item]}
        if item.get("type") == "function_call_output":
            return {"role": "tool", "content": [item]}
    return item


def _answers(response: Any, place: Place) -> list[tuple[Message, Record]]:
    """Read the messages that a response holds, each with its choice."""
    whole = _whole(response)
    if isinstance(whole.get("output"), list):  # the Responses API: one answer in several items
        items = [each for each in map(_with_role, whole["output"]) if isinstance(each, dict) and "role" in each]
        said = messages_of(items, place, "response.output")
        content = "\n".join(each.content for each in said if each.content)
        answer = Message("assistant", content, tuple(call for each in said for call in each.tool_calls))
        return [(answer, {"cut": whole.get("status") == "cancelled"})]
    choices = whole.get("choices") or ([{"message": whole}] if "content" in whole else [])
    answers = [
        (message, choice)
        for choice in choices
        if isinstance(choice, dict)
        for message in message_of(_message_in(choice), place, "response")[:1]
    ]
    if not answers:
        raise RecordError("response", "the request has no answer", "log the response's body; of a stream, once it ends")
    return answers


def _whole(response: Any) -> Record:
    """Return a response as an object, be it logged as text, as chunks or as a list of messages."""
    loaded = parsed(response)
    if isinstance(loaded, list) and loaded and isinstance(loaded[0], dict):
        if str(loaded[0].get("object", "")).endswith(".chunk"):
            return _assembled(loaded)
        if "message" in loaded[0]:
            return {"choices": loaded}
        if loaded[0].keys() & {"type", "role"}:
            return {"output": loaded} if "type" in loaded[0] else {"choices": [{"message": loaded[-1]}]}
    if isinstance(loaded, dict) and loaded.keys() & {"choices", "output", "content"}:
        return loaded
    return {"content": response} if isinstance(response, str) and response.strip() else {}


def _message_in(choice: Record) -> Record:
    message = parsed(choice.get("message", choice.get("text", "")))
    return {"role": "assistant", **message} if isinstance(message, dict) else {"role": "assistant", "content": message}


def _assembled(chunks: Sequence[Any]) -> Record:
    """Join the chunks of a streamed response; without a reason to finish, its client cut it."""
    content, calls, logprobs, finished = list[str](), dict[int, dict[str, Any]](), list[Any](), False
    for choice in (each for chunk in chunks for each in chunk.get("choices") or [] if not each.get("index")):
        delta = record_at(choice, "delta")
        content.append(delta.get("content") or "")
        for call in delta.get("tool_calls") or []:
            whole = calls.setdefault(call.get("index", 0), {"function": {"name": "", "arguments": ""}})
            whole["id"] = whole.get("id") or call.get("id")
            for name in ("name", "arguments"):
                whole["function"][name] += record_at(call, "function").get(name) or ""
        logprobs += record_at(choice, "logprobs").get("content") or []
        finished = finished or choice.get("finish_reason") is not None
    message = {"role": "assistant", "content": "".join(content), "tool_calls": list(calls.values())}
    choice = {"message": message, "logprobs": {"content": logprobs}, "cut": not finished}
    return {**chunks[0], "choices": [choice]}


def _logprob(choice: Record) -> float | None:
    tokens = record_at(choice, "logprobs").get("content")
    values = [each.get("logprob") for each in tokens or [] if isinstance(each, dict)]
    known = [each for each in values if isinstance(each, int | float)]
    return float(sum(known)) if values and len(known) == len(values) else None


def _token_ids(choice: Record) -> tuple[int, ...] | None:
    ids = choice.get("token_ids")
    return tuple(ids) if isinstance(ids, list) and ids and all(isinstance(each, int) for each in ids) else None
