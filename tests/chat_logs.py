"""Write conversations as each of the formats of chat logs has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from respect_core.scenarios.chat.importers.conversation import ChatTurn, Conversation, Message, Source

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
Record = dict[str, Any]


def conversation(*turns: ChatTurn, **fields: Any) -> Conversation:
    given = {"id": "c1", "user": "ann", "system": None, "tools": (), "started_at": None, "language": None}
    return Conversation(**given | fields, turns=turns, source=Source("", ""))


def exchange(utterance: str, *reply: str | Message, **fields: Any) -> ChatTurn:
    messages = (each if isinstance(each, Message) else Message("assistant", each) for each in reply)
    return ChatTurn(utterance, tuple(messages), **fields)


def spoken(turn: ChatTurn) -> list[Any]:
    """What was said in a turn, as far as every format has it."""
    return [turn.utterance, *([m.role, m.content, [(c.name, c.arguments) for c in m.tool_calls]] for m in turn.reply)]


def openai(message: Message) -> Record:
    record: Record = {"role": message.role, "content": message.content}
    if message.tool_calls:
        record["tool_calls"] = [
            {"id": each.id, "type": "function", "function": {"name": each.name, "arguments": each.arguments}}
            for each in message.tool_calls
        ]
    if message.tool_call_id:
        record["tool_call_id"] = message.tool_call_id
    return record


def messages_of(given: Conversation) -> list[tuple[Message, ChatTurn | None]]:
    said: list[tuple[Message, ChatTurn | None]] = [(Message("system", given.system), None)] if given.system else []
    for turn in given.turns:
        said.append((Message("user", turn.utterance), turn))
        said += [(each, turn) for each in turn.reply]
    return said


def requests(given: Conversation) -> Iterator[tuple[list[Record], Message, ChatTurn, int]]:
    """Each request that a client sends: the whole history, the answer, its turn, and a number."""
    said = messages_of(given)
    for i, (message, turn) in enumerate(said):
        if message.role == "assistant" and turn:
            yield [openai(each) for each, _ in said[:i]], message, turn, i


def at(number: int) -> datetime:
    return START + timedelta(seconds=number)


# --- whole conversations ----------------------------------------------------------------------------------------


def messages(given: Conversation) -> list[Record]:
    said = [
        openai(message)
        | ({"rating": turn.explicit == 1, "model": turn.model} if turn and message.role == "assistant" else {})
        for message, turn in messages_of(given)
    ]
    return [{"messages": said, "tools": list(map(json.loads, given.tools)), "id": given.id, "user": given.user}]


def sharegpt(given: Conversation) -> list[Record]:
    names = {"user": "human", "assistant": "gpt", "tool": "observation"}
    said = []
    for message, _ in messages_of(given):
        if message.role == "system":
            continue
        if message.tool_calls:
            call = {"name": message.tool_calls[0].name, "arguments": json.loads(message.tool_calls[0].arguments)}
            said.append({"from": "function_call", "value": json.dumps(call, ensure_ascii=False)})
        else:
            said.append({"from": names[message.role], "value": message.content})
    return [{"id": given.id, "system": given.system or "", "conversations": said, "tools": json.dumps([])}]


def wildchat(given: Conversation) -> list[Record]:
    said = [
        {"role": message.role, "content": message.content, "hashed_ip": given.user, "language": "English"}
        for message, _ in messages_of(given)
    ]
    model = given.turns[0].model
    head = {"conversation_hash": given.id, "model": model, "timestamp": START.isoformat(), "language": "English"}
    return [head | {"conversation": said, "turn": len(given.turns), "hashed_ip": given.user, "state": "Ohio"}]


def lmsys(given: Conversation) -> list[Record]:
    said = [{"role": message.role, "content": message.content} for message, _ in messages_of(given)]
    return [{"conversation_id": given.id, "model": given.turns[0].model, "conversation": said, "language": "English"}]


def kto(given: Conversation) -> list[Record]:
    return [
        {"prompt": history, "completion": [openai(answer)], "label": turn.explicit == 1}
        for history, answer, turn, _ in requests(given)
    ]


# --- gateways ---------------------------------------------------------------------------------------------------


def response(answer: Message, turn: ChatTurn, number: int) -> Record:
    choice = {"index": 0, "message": openai(answer), "finish_reason": "stop"}
    return {"id": f"chatcmpl-{number}", "object": "chat.completion", "model": turn.model, "choices": [choice]}


def litellm(given: Conversation) -> list[Record]:
    return [
        {
            "id": f"{given.id}-{number}",
            "trace_id": f"trace-{number}",
            "call_type": "acompletion",
            "status": "success",
            "startTime": at(number).timestamp(),
            "end_user": given.user,
            "model": turn.model,
            "messages": history,
            "response": response(answer, turn, number),
            "model_parameters": {"temperature": 0.5, "tools": list(map(json.loads, given.tools)), "stream": False},
            "metadata": {"user_api_key_alias": None},
        }
        for history, answer, turn, number in requests(given)
    ]


def body(given: Conversation, history: list[Record], turn: ChatTurn) -> Record:
    tools = {"tools": list(map(json.loads, given.tools))} if given.tools else {}
    return {"model": "alias", "messages": history, "temperature": 0.5, "user": given.user} | tools


def pairs(given: Conversation) -> list[Record]:
    return [
        {
            "request": body(given, history, turn),
            "response": response(answer, turn, number),
            "timestamp": at(number).isoformat(),
        }
        for history, answer, turn, number in requests(given)
    ]


def helicone(given: Conversation) -> list[Record]:
    return [
        {
            "request_id": f"{given.id}-{number}",
            "request_created_at": at(number).isoformat(),
            "request_user_id": given.user,
            "request_properties": {"Helicone-Session-Id": given.id},
            "request_body": body(given, history, turn),
            "response_body": response(answer, turn, number),
            "response_status": 200,
            "feedback_rating": None if turn.explicit is None else turn.explicit == 1,
        }
        for history, answer, turn, number in requests(given)
    ]


# --- spans ------------------------------------------------------------------------------------------------------


def langfuse(given: Conversation) -> list[Record]:
    records: list[Record] = []
    for history, answer, turn, number in requests(given):
        name = f"{given.id}-{number}"
        records.append(
            {
                "id": name,
                "trace_id": f"trace-{name}",
                "type": "GENERATION",
                "start_time": at(number).strftime("%Y-%m-%d %H:%M:%S.%f"),
                "provided_model_name": turn.model,
                "model_parameters": {"temperature": 0.5},
                "input": {"messages": history, "tools": list(map(json.loads, given.tools))},
                "output": openai(answer),
                "user_id": given.user,
                "session_id": given.id,
            }
        )
        if turn.explicit is not None:
            score = {"id": f"s-{name}", "trace_id": f"trace-{name}", "observation_id": name, "name": "user-feedback"}
            records.append(score | {"value": float(turn.explicit == 1), "data_type": "BOOLEAN", "source": "API"})
    return records


def _parts(record: Record) -> Record:
    parts: list[Record] = [{"type": "text", "content": record["content"]}] if record["content"] else []
    if record["role"] == "tool":
        parts = [{"type": "tool_call_response", "id": record.get("tool_call_id"), "response": record["content"]}]
    for each in record.get("tool_calls", []):
        arguments = json.loads(each["function"]["arguments"])
        parts.append({"type": "tool_call", "id": each["id"], "name": each["function"]["name"], "arguments": arguments})
    return {"role": record["role"], "parts": parts}


def otel(given: Conversation) -> list[Record]:
    spans = []
    for history, answer, turn, number in requests(given):
        system = [each for each in history if each["role"] == "system"]
        rest = [_parts(each) for each in history if each["role"] != "system"]
        values = {
            "gen_ai.operation.name": "chat",
            "gen_ai.conversation.id": given.id,
            "gen_ai.request.model": "alias",
            "gen_ai.response.model": turn.model,
            "gen_ai.request.temperature": 0.5,
            "user.id": given.user,
            "gen_ai.input.messages": json.dumps(rest),
            "gen_ai.output.messages": json.dumps([_parts(openai(answer)) | {"finish_reason": "stop"}]),
            "gen_ai.system_instructions": json.dumps([{"type": "text", "content": each["content"]} for each in system]),
            "gen_ai.tool.definitions": json.dumps(list(map(json.loads, given.tools))),
        }
        attributes = [
            {"key": name, "value": {"doubleValue" if isinstance(value, float) else "stringValue": value}}
            for name, value in values.items()
            if value is not None
        ]
        events = []
        if turn.explicit is not None:
            label = "thumbs_up" if turn.explicit == 1 else "thumbs_down"
            rating = {"gen_ai.evaluation.name": "user_feedback", "gen_ai.evaluation.score.label": label}
            rated = [{"key": name, "value": {"stringValue": value}} for name, value in rating.items()]
            events = [{"name": "gen_ai.evaluation.result", "attributes": rated}]
        start = str(int(at(number).timestamp() * 1e9))
        ids = {"traceId": f"trace-{number}", "spanId": f"{given.id}-{number}", "startTimeUnixNano": start}
        spans.append(ids | {"name": "chat", "attributes": attributes, "events": events})
    return [{"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": spans}]}]}]


def mlflow(given: Conversation) -> list[Record]:
    records = []
    for history, answer, turn, number in requests(given):
        metadata = {"mlflow.trace.session": given.id, "mlflow.trace.user": given.user}
        attributes = {
            "mlflow.spanType": json.dumps("CHAT_MODEL"),
            "mlflow.spanInputs": json.dumps({"messages": history, "temperature": 0.5}),
            "mlflow.spanOutputs": json.dumps(response(answer, turn, number)),
            "mlflow.chat.tools": json.dumps(list(map(json.loads, given.tools))),
        }
        span = {
            "trace_id": "x",
            "span_id": f"s{number}",
            "parent_span_id": None,
            "name": "chat",
            "attributes": attributes,
        }
        span["start_time_unix_nano"] = int(at(number).timestamp() * 1e9)
        rated = []
        if turn.explicit is not None:
            source = {"source_type": "HUMAN", "source_id": "ann"}
            rated = [{"assessment_name": "feedback", "source": source, "feedback": {"value": turn.explicit == 1}}]
        info = {"trace_id": f"tr-{given.id}-{number}", "trace_metadata": metadata, "assessments": rated}
        records.append({"info": info, "data": {"spans": [span]}})
    return records


# --- trees ------------------------------------------------------------------------------------------------------


def openwebui(given: Conversation) -> list[Record]:
    nodes: dict[str, Record] = {}
    parent = None
    for number, (message, turn) in enumerate(messages_of(given)):
        if message.role == "system" or turn is None:
            continue
        name = f"{given.id}-m{number}"
        node = {"id": name, "parentId": parent, "childrenIds": [], "role": message.role, "content": message.content}
        node["timestamp"] = int(at(number).timestamp())
        if message.role == "assistant":
            node |= {"model": turn.model, "annotation": {"rating": turn.explicit}, "done": True}
        nodes[name], parent = node, name
    chat = {"history": {"messages": nodes, "currentId": parent}, "params": {"system": given.system, "temperature": 0.5}}
    return [{"id": given.id, "user_id": given.user, "title": "x", "chat": chat, "created_at": int(START.timestamp())}]


def chatgpt(given: Conversation) -> list[Record]:
    mapping: dict[str, Record] = {"root": {"id": "root", "parent": None, "children": [], "message": None}}
    ratings: list[Record] = []
    parent = "root"
    for number, (message, turn) in enumerate(messages_of(given)):
        name = f"{given.id}-n{number}"
        content: Record = {"content_type": "text", "parts": [message.content]}
        author, recipient = {"role": message.role, "name": message.name}, "all"
        if message.tool_calls:
            content = {"content_type": "code", "text": message.tool_calls[0].arguments}
            recipient = message.tool_calls[0].name
        metadata = {"model_slug": turn.model} if turn and message.role == "assistant" else {}
        said = {"id": name, "author": author, "content": content, "recipient": recipient, "metadata": metadata}
        mapping[name] = {"id": name, "parent": parent, "message": said | {"create_time": at(number).timestamp()}}
        parent = name
        if turn and turn.explicit and message is turn.reply[-1]:
            rating = "thumbs_up" if turn.explicit == 1 else "thumbs_down"
            ratings.append({"message_id": name, "conversation_id": given.id, "rating": rating})
    head = {"conversation_id": given.id, "title": "x", "create_time": START.timestamp(), "current_node": parent}
    return [head | {"mapping": mapping}, *ratings]


def openassistant(given: Conversation) -> list[Record]:
    root: Record = {}
    replies: list[Record] = []
    for number, (message, turn) in enumerate(messages_of(given)):
        node: Record = {
            "message_id": f"{given.id}-{number}",
            "user_id": given.user,
            "text": message.content,
            "role": "prompter" if message.role == "user" else "assistant",
            "lang": "en",
            "created_date": at(number).isoformat(),
            "model_name": turn.model if turn and message.role == "assistant" else None,
            "replies": [],
        }
        replies.append(node) if root else None
        root, replies = root or node, node["replies"]
    return [{"message_tree_id": given.id, "tree_state": "ready_for_export", "prompt": root}]


@dataclass(frozen=True)
class Writer:
    """How to write a format, and which parts of a conversation it has."""

    records: Callable[[Conversation], list[Record]]
    has: frozenset[str]
    array: bool = False  # its tool writes one array, not lines


def _writer(records: Callable[[Conversation], list[Record]], has: str, array: bool = False) -> Writer:
    return Writer(records, frozenset(has.split()), array)


WRITERS = {
    "messages": _writer(messages, "id user system calls tools explicit model unanswered"),
    "sharegpt": _writer(sharegpt, "id system calls unanswered", array=True),
    "wildchat": _writer(wildchat, "id user model language unanswered"),
    "lmsys": _writer(lmsys, "id model language unanswered"),
    "kto": _writer(kto, "system calls explicit"),
    "litellm": _writer(litellm, "user system calls tools model sampling"),
    "openai": _writer(pairs, "user system calls tools model sampling"),
    "helicone": _writer(helicone, "id user system calls tools explicit model sampling"),
    "langfuse": _writer(langfuse, "id user system calls tools explicit model sampling"),
    "otel": _writer(otel, "id user system calls tools explicit model sampling"),
    "mlflow": _writer(mlflow, "id user system calls tools explicit model sampling"),
    "openwebui": _writer(openwebui, "id user system explicit model sampling unanswered", array=True),
    "chatgpt": _writer(chatgpt, "id system calls explicit model unanswered", array=True),
    "openassistant": _writer(openassistant, "id user model language unanswered"),
}


def write(path: Path, records: Sequence[Any], array: bool = False) -> Path:
    """Write records as JSON lines, or as one array."""
    text = json.dumps(records, indent=1) if array else "".join(json.dumps(each) + "\n" for each in records)
    path.write_text(text, encoding="utf-8")
    return path
