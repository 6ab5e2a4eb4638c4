"""Read trees of messages: chats and feedback of Open WebUI, a ChatGPT export, OpenAssistant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from respect_core.log.log import RecordError
from respect_core.scenarios.chat.importers.branches import Node, paths
from respect_core.scenarios.chat.importers.conversation import Entry, Message, Source, Thread, ToolCall
from respect_core.scenarios.chat.importers.parsing import (
    Record,
    dumped,
    message_of,
    record_at,
    sampling,
    text,
    thumb,
    when,
)
from respect_core.scenarios.chat.importers.stitch import Rating
from respect_core.scenarios.chat.importers.summary import Place

_REASONING = re.compile(r'<details type="reasoning".*?</details>\s*', re.DOTALL)
_HIDDEN = {"user_editable_context", "model_editable_context", "thoughts", "reasoning_recap"}


@dataclass
class Tree:
    """Messages by id, each with the id of its parent; of siblings the preferred or latest is the last."""

    id: str
    source: Source
    messages: dict[str, tuple[str | None, Entry | None]] = field(default_factory=dict)
    current: str | None = None  # the message where the user was last
    system: str | None = None
    user: str | None = None
    started_at: str | None = None
    language: str | None = None
    snapshot: bool = False  # stored beside a rating, so that other records may hold it too
    format: str = ""


class Forest:
    """Trees by id, joined from the records that hold their messages."""

    def __init__(self) -> None:
        self._trees: dict[tuple[str, str], Tree] = {}

    def add(self, tree: Tree) -> bool:
        """Add a tree, or its messages to those of this id; tell whether any of them is new."""
        known = self._trees.setdefault((tree.format, tree.id), tree)
        if known is tree:
            return True
        new = tree.messages.keys() - known.messages.keys()
        if new:
            known.messages |= tree.messages
            known.current = tree.current or known.current
        return bool(new)

    def threads(self, ratings: Mapping[str, int]) -> Iterator[Thread]:
        """Yield the conversations of all trees."""
        for tree in self._trees.values():
            nodes = {each: Node(self._rated(entry, ratings.get(each))) for each, (_, entry) in tree.messages.items()}
            root = Node(Entry(Message("system", tree.system)) if tree.system else None)
            for each, (parent, _) in tree.messages.items():
                nodes.get(parent or "", root).children.append(nodes[each])
            current, name = dict[str, Node](), tree.current
            while name is not None and name in nodes and name not in current:
                current[name] = nodes[name]
                name = tree.messages[name][0]
            for _, entries, shared in paths(root, current.values()):
                yield Thread(
                    entries,
                    tree.source,
                    id=tree.id,
                    user=tree.user,
                    started_at=tree.started_at,
                    language=tree.language,
                    shared=shared,
                    format=tree.format,
                )

    @staticmethod
    def _rated(entry: Entry | None, rating: int | None) -> Entry | None:
        return replace(entry, explicit=rating) if entry and rating else entry


# --- Open WebUI -------------------------------------------------------------------------------------------------


def read_openwebui(record: Record, place: Place) -> Iterator[Tree | Rating]:
    """Read an exported chat, or a rating with its snapshot of the chat."""
    meta, snapshot = record_at(record, "meta"), record_at(record, "snapshot", "chat")
    if "snapshot" in record or "meta" in record:
        rating, target = thumb(record_at(record, "data").get("rating")), text(meta.get("message_id"))
        if rating is None or target is None:
            raise RecordError("data.rating", "a rating without thumb or message", "none: it says nothing about a reply")
        yield Rating(target, rating)
        if not snapshot:
            return
    source: Record = snapshot or record
    chat = source if "history" in source else record_at(source, "chat")
    history = record_at(chat, "history")
    messages = history.get("messages")
    if not isinstance(messages, dict):
        raise RecordError(
            "chat.history.messages", "the field is absent", "export the chats as JSON, with their history"
        )
    params = record_at(chat, "params")
    yield Tree(
        id=text(source.get("id")) or text(meta.get("chat_id")) or text(chat.get("id")) or place.source.record,
        source=place.source,
        messages={
            name: (text(each.get("parentId")), _openwebui(each, params, place, f"chat.history.messages[{name}]"))
            for name, each in messages.items()
            if isinstance(each, dict)
        },
        current=text(history.get("currentId")),
        system=text(params.get("system") or chat.get("system")),
        user=text(source.get("user_id") or record.get("user_id")),
        started_at=when(source.get("created_at") or chat.get("timestamp")),
        snapshot=bool(snapshot),
    )


def _openwebui(item: Record, params: Record, place: Place, field: str) -> Entry | None:
    for file in item.get("files") or []:
        kind = file.get("type", "file") if isinstance(file, dict) else "file"
        place.leave_out(field, f"a file of a message ({kind})", "none: the text of the message stays")
    message = message_of(item, place, field)[0]
    reply = message.role == "assistant"
    return Entry(
        replace(message, content=_REASONING.sub("", message.content), name=None),
        at=when(item.get("timestamp")),
        model=text(item.get("model")) if reply else None,
        explicit=thumb(record_at(item, "annotation").get("rating")) if reply else None,
        sampling=sampling(params) if reply else None,
        cut=reply and item.get("done") is False,
    )


# --- ChatGPT ----------------------------------------------------------------------------------------------------


def read_chatgpt(record: Record, place: Place) -> Iterator[Tree | Rating]:
    """Read a conversation of conversations.json, or a thumb of message_feedback.json."""
    if "mapping" not in record:
        rating, target = thumb(record.get("rating")), text(record.get("message_id") or record.get("id"))
        if rating is None or target is None:
            raise RecordError("rating", "a rating without thumb or message", "none: it says nothing about a reply")
        yield Rating(target, rating)
        return
    if not isinstance(record["mapping"], dict):
        raise RecordError("mapping", "no object of messages", "take conversations.json as it was exported")
    nodes = {name: each for name, each in record["mapping"].items() if isinstance(each, dict)}
    yield Tree(
        id=text(record.get("conversation_id") or record.get("id")) or place.source.record,
        source=place.source,
        messages={
            name: (text(each.get("parent")), _chatgpt(record_at(each, "message"), place, f"mapping[{name}]"))
            for name, each in nodes.items()
        },
        current=text(record.get("current_node")),
        started_at=when(record.get("create_time")),
    )


def _chatgpt(message: Record, place: Place, field: str) -> Entry | None:
    content, metadata = record_at(message, "content"), record_at(message, "metadata")
    kind = content.get("content_type")
    if not message or metadata.get("is_visually_hidden_from_conversation") or kind in _HIDDEN:
        return None
    author, recipient = record_at(message, "author"), message.get("recipient") or "all"
    parts = content.get("parts")
    if parts is None:
        parts = [content.get("text") or content.get("result") or ""]
    said = message_of({"role": author.get("role"), "content": parts}, place, field)[0]
    if said.role == "assistant" and recipient != "all":
        said = replace(said, content="", tool_calls=(ToolCall(str(recipient), dumped(said.content)),))
    elif said.role == "tool":
        said = replace(said, name=text(author.get("name")))
    reply = said.role == "assistant"
    return Entry(
        said,
        at=when(message.get("create_time")),
        model=text(metadata.get("model_slug")) if reply else None,
        cut=reply
        and (
            record_at(metadata, "finish_details").get("type") == "interrupted" or message.get("status") == "in_progress"
        ),
    )


# --- OpenAssistant ----------------------------------------------------------------------------------------------


def read_openassistant(record: Record, place: Place) -> Iterator[Tree]:
    """Read a tree with nested replies, a thread of messages, or one message of a flat export."""
    root: Any = record.get("prompt", record)
    items = [root] if "thread" not in record else list(record["thread"] or [])
    messages: dict[str, tuple[str | None, Entry | None]] = {}
    pending: list[tuple[str | None, Any]] = [(None, each) for each in reversed(items)]
    first: Record | None = None
    while pending:
        parent, item = pending.pop()
        name = text(item.get("message_id")) if isinstance(item, dict) else None
        if name is None:
            raise RecordError("message_id", "the field is absent", "export the messages with their ids")
        first = first or item
        entry = (
            None
            if item.get("deleted")
            else Entry(
                message_of(item, place, f"message {name}")[0],
                at=when(item.get("created_date")),
                model=text(item.get("model_name")),
            )
        )
        messages[name] = (text(item.get("parent_id")) or parent, entry)
        replies = [each for each in item.get("replies") or [] if isinstance(each, dict)]
        # The stack takes the last first: those without a rank, the worst, ..., the best of all.
        replies.sort(key=lambda each: (each.get("rank") is None, each.get("rank") or 0))
        pending += [(name, each) for each in replies]
    if first is None:
        raise RecordError("thread", "there are no messages", "none: there is nothing to learn from")
    top = first if not first.get("parent_id") else {}
    yield Tree(
        id=text(record.get("message_tree_id") or first.get("message_tree_id") or record.get("thread_id"))
        or next(iter(messages)),
        source=place.source,
        messages=messages,
        user=text(top.get("user_id")),
        started_at=when(top.get("created_date")),
        language=text(first.get("lang")),
    )
