"""Read the replies that gateways served, as turns: which reply answers what, and which message follows which reply."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from respect_core.log.log import RecordError
from respect_core.log.served_chats import ServedChat
from respect_core.scenarios.chat.importers.conversation import (
    Entry,
    Message,
    Source,
    Thread,
    conversation,
    messages,
    said,
)
from respect_core.scenarios.chat.importers.parsing import messages_of, tools_of
from respect_core.scenarios.chat.importers.summary import Imported, Place


@dataclass(eq=False)
class Reply:
    """A record as a turn: what was said before it, the user's message, and all that the assistant wrote to it.

    `before` and `after` are keys of what was said up to the user's message, and up to the reply.
    """

    chat: ServedChat
    system: str | None
    tools: tuple[str, ...]
    history: tuple[Message, ...]
    utterance: str
    reply: tuple[Message, ...]
    logprobs: tuple[float, ...] | None
    before: str
    after: str
    own: bool = True  # a gateway wrote all of the reply
    children: list[Reply] = field(default_factory=list)
    end: str = ""  # when the last reply below it was written


def replies(chats: Iterable[ServedChat]) -> Iterator[Reply]:
    """Yield the records as turns. Where tools were called in between, the last record has the whole reply."""
    parts: dict[str, Reply] = {}  # by what was said up to them
    whole: dict[str, Reply] = {}
    for chat in sorted(chats, key=lambda each: each.time):
        try:
            each = read_reply(chat)
        except RecordError:  # nothing that a gateway of this release writes
            continue
        if len(each.reply) > 1:  # calls of tools, and what came back
            start = max((n for n in range(1, len(each.reply)) if each.reply[n - 1].role == "assistant"), default=0)
            part = parts.get(_key([*each.history, Message("user", each.utterance), *each.reply[:start]]))
            each.own = part is not None and part.own and not part.chat.cut
            if part is not None:
                whole.pop(part.chat.id, None)
                known = part.logprobs is not None and each.logprobs is not None
                each.logprobs = (*(part.logprobs or ()), *(each.logprobs or ())) if known else None
        parts[each.after] = whole[chat.id] = each
    yield from whole.values()


def read_reply(chat: ServedChat) -> Reply:
    """Read a record. Raises RecordError for one that no gateway of this release wrote."""
    source = Source("served", chat.id)
    place = Place(source, Imported())
    asked = messages_of(chat.request["messages"], place)
    (choice,) = chat.response["choices"]
    answer = messages_of([{"role": "assistant", **choice["message"]}], place)
    # As the gateway read it, and showed it to the model.
    spoken = conversation(Thread(list(map(Entry, asked)), source, tools=tools_of(chat.request.get("tools"))))
    *earlier, last = spoken.turns
    history, reply = (*spoken.opening, *messages(earlier)), (*last.reply, *answer)
    content = choice.get("logprobs", {}).get("content")
    return Reply(
        chat,
        spoken.system,
        spoken.tools,
        history,
        last.utterance,
        reply,
        None if content is None else tuple(each["logprob"] for each in content),
        before=_key(history),
        after=_key([*history, Message("user", last.utterance), *reply]),
    )


def _key(spoken: Iterable[Message]) -> str:
    """Return a key of messages; white space and ids of calls do not count."""
    return hashlib.sha256(json.dumps(list(map(said, spoken))).encode("utf-8", "surrogatepass")).hexdigest()
