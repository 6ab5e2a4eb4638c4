"""Read spans of Langfuse, OpenTelemetry's gen_ai conventions and MLflow, and the ratings beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from respect_core.log.log import RecordError
from respect_core.scenarios.chat.importers.gateways import exchange
from respect_core.scenarios.chat.importers.parsing import Record, first, parsed, record_at, sampling, text, thumb, when
from respect_core.scenarios.chat.importers.stitch import Owner, Rating, Request
from respect_core.scenarios.chat.importers.summary import Place

Item = Request | Rating | Owner | RecordError
_USERS = re.compile(r"feedback|thumb|rating|\blikes?\b|satisf|\buser|vote", re.IGNORECASE)
_QUESTIONS = "messages input prompt question query message text content user_input"
_ANSWERS = "output response answer completion result message text content generated_text"
_NO_CHAT = {"embeddings", "execute_tool", "create_agent", "invoke_agent", "retrieval"}


def _rating(target: Any, name: Any, value: Any, place: Place, field: str) -> Iterator[Rating]:
    """Yield a rating if it is a user's thumb; any other score is left out."""
    rating, target, users = thumb(value), text(target), _USERS.search(str(name))
    if target and users:
        yield Rating(target, rating, str(name))
    if rating is None or not users:
        place.leave_out(
            field, "a score that is no thumb of a user", f"none, or name it user_feedback ({name}: {value})"
        )


def _body(said: Any) -> dict[str, Any]:
    """Return what was asked as the body of a request."""
    said = parsed(said)
    if isinstance(said, dict):
        body = dict(said)
        if "messages" not in body and "role" in body:
            return {"messages": [body]}
        return body | {"messages": first(said, *_QUESTIONS.split())}
    return {"messages": said}


def _answer(said: Any) -> Any:
    """Return what was answered: a text, a message, or a response with choices."""
    loaded = parsed(said)
    if isinstance(loaded, dict) and not loaded.keys() & {"choices", "content", "role"}:
        return first(loaded, *_ANSWERS.split()) or said
    return said


def _each(read: Callable[[Any, Place], Iterator[Item]], items: Any, place: Place) -> Iterator[Item]:
    """Read the parts of a record, so that a bad one costs no other."""
    for item in items if isinstance(items, list) else []:
        try:
            if isinstance(item, dict):
                yield from read(item, place)
        except RecordError as error:
            yield error


# --- Langfuse ---------------------------------------------------------------------------------------------------


def read_langfuse(record: Record, place: Place) -> Iterator[Item]:
    """Read an observation, a score, or a trace with or without its observations and scores."""
    trace = text(first(record, "traceId", "trace_id"))
    user, session = text(first(record, "userId", "user_id")), text(first(record, "sessionId", "session_id"))
    if is_score(record):
        if str(record.get("source")) == "EVAL":
            raise RecordError("source", "a score of an evaluator", "none: it is no feedback of a user")
        target = first(record, "observationId", "observation_id") or trace
        value = first(record, "stringValue", "string_value")
        yield from _rating(target, record.get("name"), record.get("value") if value is None else value, place, "value")
        return
    observation = trace is not None and "type" in record
    if observation and record["type"] != "GENERATION":
        raise RecordError("type", "an observation that is no generation", "none: its messages are in generations")
    if not observation:
        trace = text(record.get("id"))
        yield Owner(trace or "", user, session)
        yield from _each(read_langfuse, record.get("scores"), place)
        yield from _each(read_langfuse, record.get("observations"), place)
        if first(record, "input") is None or first(record, "output") is None:
            return
    settings = parsed(first(record, "modelParameters", "model_parameters"))
    body = _body(record.get("input")) | (settings if isinstance(settings, dict) else {})
    model = first(record, "model", "provided_model_name", "providedModelName")
    yield exchange(
        body if model is None else body | {"model": model},
        _answer(record.get("output")),
        place,
        id=text(record.get("id")),
        at=when(first(record, "startTime", "start_time", "timestamp")),
        user=user,
        session=session,
        trace=trace,
        fallback=not observation,
    )


def is_score(record: Record) -> bool:
    """Tell whether a record of Langfuse is a score."""
    return "name" in record and "type" not in record and bool(record.keys() & {"value", "stringValue", "string_value"})


def is_langfuse(record: Record) -> bool:
    """Tell whether a record is a trace, an observation or a score of Langfuse."""
    keys = record.keys()
    if keys & {"traceId", "trace_id"}:
        return is_score(record) or ("type" in keys and bool(keys & {"input", "startTime", "start_time"}))
    return {"id", "timestamp"} <= keys and bool(keys & {"sessionId", "session_id", "observations"}) and "input" in keys


# --- OpenTelemetry ----------------------------------------------------------------------------------------------


def read_otel(record: Record, place: Place) -> Iterator[Item]:
    """Read a batch of spans or log records in OTLP's JSON, or one span as an SDK prints it."""
    batches = [*_lists(record, "resourceSpans", "resource_spans"), *_lists(record, "resourceLogs", "resource_logs")]
    scopes = [
        scope for batch in batches for scope in _lists(batch, "scopeSpans", "scope_spans", "scopeLogs", "scope_logs")
    ]
    items = [item for scope in scopes for item in _lists(scope, "spans", "logRecords", "log_records")]
    yield from _each(_read_span, items if batches else [record], place)


def _lists(record: Record, *names: str) -> list[Record]:
    return [each for name in names for each in record.get(name) or [] if isinstance(each, dict)]


def _read_span(span: Record, place: Place) -> Iterator[Item]:
    context = record_at(span, "context")
    id = text(first(span, "spanId", "span_id") or context.get("span_id"))
    trace = text(first(span, "traceId", "trace_id") or context.get("trace_id"))
    attributes = _attributes(span.get("attributes"))
    events = [(str(each.get("name")), _attributes(each.get("attributes"))) for each in _lists(span, "events")]
    events.append((str(first(span, "eventName", "event_name")), attributes))
    for name, values in events:
        if name == "gen_ai.client.inference.operation.details":
            attributes = attributes | values
        elif name == "gen_ai.evaluation.result":
            label = first(values, "gen_ai.evaluation.score.label")
            value = values.get("gen_ai.evaluation.score.value") if label is None else label
            yield from _rating(id or trace, values.get("gen_ai.evaluation.name"), value, place, name)
            if values is attributes:
                return
    if attributes.get("gen_ai.operation.name") in _NO_CHAT or not any(
        name.startswith("gen_ai.") for name in attributes
    ):
        raise RecordError("gen_ai.operation.name", "a span that is no chat", "none: its messages are in other spans")
    if "gen_ai.input.messages" not in attributes:
        raise RecordError(
            "gen_ai.input.messages",
            "a span without messages",
            "let the instrumentation capture messages, which is opt-in",
        )
    outputs = parsed(attributes.get("gen_ai.output.messages"))
    yield exchange(
        {
            "messages": parsed(attributes["gen_ai.input.messages"]),
            "system": parsed(attributes.get("gen_ai.system_instructions")),
            "tools": attributes.get("gen_ai.tool.definitions"),
            "model": first(attributes, "gen_ai.response.model", "gen_ai.request.model"),
            **(sampling(attributes, "gen_ai.request.") or {}),
        },
        {"choices": [{"message": each} for each in outputs]} if isinstance(outputs, list) else outputs,
        place,
        id=id,
        at=when(first(span, "startTimeUnixNano", "start_time_unix_nano", "start_time", "timeUnixNano")),
        user=text(first(attributes, "user.id", "enduser.id")),
        session=text(first(attributes, "gen_ai.conversation.id", "session.id")),
        trace=trace,
    )


def _attributes(value: Any) -> dict[str, Any]:
    """Return attributes by name, which OTLP writes as a list of keys and typed values."""
    if isinstance(value, dict):
        return dict(value)
    return {str(each.get("key")): _value(each.get("value")) for each in value or [] if isinstance(each, dict)}


def _value(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "kvlistValue" in value:
        return _attributes(record_at(value, "kvlistValue").get("values"))
    if "arrayValue" in value:
        return [_value(each) for each in record_at(value, "arrayValue").get("values") or []]
    if "intValue" in value:
        return int(value["intValue"])
    return next(iter(value.values()), None)


# --- MLflow -----------------------------------------------------------------------------------------------------


def read_mlflow(record: Record, place: Place) -> Iterator[Item]:
    """Read a trace: its calls of chat models, or without any the request and response of its root."""
    info, data = record_at(record, "info"), record_at(record, "data")
    trace = text(first(info, "trace_id", "request_id"))
    for each in _lists(info, "assessments"):
        feedback = record_at(each, "feedback")
        if not feedback or record_at(each, "source").get("source_type", "HUMAN") != "HUMAN":
            reason = "an assessment that is no feedback of a person"
            place.leave_out("info.assessments", reason, "none: it is no thumb of a user")
            continue
        yield from _rating(trace, each.get("assessment_name"), feedback.get("value"), place, "info.assessments")
    metadata = record_at(info, "trace_metadata") or record_at(info, "request_metadata")
    user, session = text(metadata.get("mlflow.trace.user")), text(metadata.get("mlflow.trace.session"))
    spans = _lists(data, "spans")
    calls = [each for each in spans if _loaded(each, "mlflow.spanType") in ("CHAT_MODEL", "LLM")]
    roots = [each for each in spans if not first(each, "parent_span_id", "parent_id")]

    def read(span: Record, place: Place) -> Iterator[Item]:
        body = _body(_loaded(span, "mlflow.spanInputs"))
        yield exchange(
            body | {name: value for name in ("tools", "model") if (value := _loaded(span, _MLFLOW[name]))},
            _answer(_loaded(span, "mlflow.spanOutputs")),
            place,
            id=f"{trace}/{first(span, 'span_id', 'context')}",
            at=when(first(span, "start_time_unix_nano", "start_time")),
            user=user,
            session=session,
            trace=trace,
        )

    if not calls and not roots:
        raise RecordError("data.spans", "a trace without spans", "export the traces with their spans")
    yield from _each(read, calls or roots[:1], place)


_MLFLOW = {"tools": "mlflow.chat.tools", "model": "mlflow.llm.model"}


def _loaded(span: Record, name: str) -> Any:
    """Return an attribute, whose value MLflow writes as JSON."""
    value = record_at(span, "attributes").get(name)
    with suppress(ValueError, RecursionError):
        return json.loads(value) if isinstance(value, str) else value
    return value
