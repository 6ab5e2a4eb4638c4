"""Write an assistant's reply as one action, and read it back: everything between two messages of the user.

A reply that is one text is that text. One with calls of tools, or in several messages, is a JSON list of messages; a
text that looks like such a list is written as one too, so that reading is exact.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from respect_core.scenario import Message, ScenarioError

_LIST = '[{"role":"'
ROLES = ("assistant", "tool")
CALL = "CALL "
"""How a line begins that calls a tool."""


@dataclass(frozen=True)
class Part:
    """One message of a reply: what the assistant wrote, or what a tool answered.

    `calls` are JSON objects with `name` and `arguments`, in the assistant's messages alone.
    """

    role: Literal["assistant", "tool"]
    content: str
    calls: tuple[str, ...] = ()


def written(parts: Sequence[Part]) -> str:
    """Write a reply as an action. Raises ScenarioError unless it ends with a message of the assistant."""
    if not parts or parts[-1].role != "assistant":
        raise ScenarioError("the reply does not end with the assistant's message")
    (first, *others) = parts
    if not others and not first.calls and not first.content.startswith(_LIST):
        return first.content
    listed = [{name: value for name, value in asdict(part).items() if value != ()} for part in parts]
    return json.dumps(listed, ensure_ascii=False, separators=(",", ":"))


def read(action: str) -> list[Part]:
    """Return the messages of an action. Raises ScenarioError for a JSON list that `written` does not write."""
    if not action.startswith(_LIST):
        return [Part("assistant", action)]
    try:
        listed: list[dict[str, Any]] = json.loads(action)
        parts = [Part(each["role"], each["content"], tuple(each.get("calls", ()))) for each in listed]
        canonical = written(parts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ScenarioError(f"the reply is a list of messages that cannot be read: {error}") from None
    if canonical != action or any(part.role not in ROLES for part in parts):
        raise ScenarioError("the reply is a list of messages in another form than `reply.written` gives it")
    return parts


def messages(action: str) -> list[Message]:
    """Return an action as chat messages. Calls of tools are text, so that any chat template takes them."""
    return [text_message(part.role, text(part)) for part in read(action)]


def text(part: Part) -> str:
    """Return the text of a message as the model reads and writes it."""
    return "\n".join([*filter(None, [part.content]), *(CALL + call for call in part.calls)])


def call(name: str, arguments: str) -> str:
    """Write a call of a tool; `arguments` is JSON."""
    return f'{{"name": {json.dumps(name)}, "arguments": {arguments}}}'


def called(line: str) -> tuple[str, str] | None:
    """Return name and arguments (JSON) where a line that a model wrote calls a tool; None for another line."""
    if not line.startswith(CALL):
        return None
    try:
        made = json.loads(line.removeprefix(CALL))
    except (ValueError, RecursionError):
        return None
    if not (isinstance(made, dict) and isinstance(made.get("name"), str) and isinstance(made.get("arguments"), dict)):
        return None
    return made["name"], json.dumps(made["arguments"], ensure_ascii=False)


# --- what comes before an utterance -----------------------------------------------------------------------------


def state(system: str | None, tools: Sequence[str] = (), opening: Sequence[tuple[str, str]] = ()) -> str:
    """Write what comes before an utterance as the state of its turn; empty where nothing does.

    Args:
        tools: on offer, as JSON texts.
        opening: roles and texts of the messages before the first utterance, such as a greeting.
    """
    given = {"system": system, "tools": list(tools), "opening": [list(each) for each in opening]}
    given = {name: value for name, value in given.items() if value}
    return json.dumps(given, ensure_ascii=False, separators=(",", ":")) if given else ""


def before(state: str) -> list[Message]:
    """Return the messages of a state. Raises ScenarioError for another text than `state` writes."""
    if not state:
        return []
    try:
        given: dict[str, Any] = json.loads(state)
        system, tools = given.get("system"), given.get("tools", [])
        text = "\n".join([*filter(None, [system]), *([_TOOLS, *tools] if tools else [])])
        opening = [text_message(role, content) for role, content in given.get("opening", [])]
    except (TypeError, ValueError, AttributeError) as error:
        raise ScenarioError(f"the state is not JSON with system, tools and opening: {error}") from None
    return [*([text_message("system", text)] if text else []), *opening]


_TOOLS = "You may call these tools. Write a call on a line of its own: CALL, then JSON with `name` and `arguments`."


def text_message(role: str, text: str) -> Message:
    return {"role": role, "content": [{"type": "text", "text": text}]}
