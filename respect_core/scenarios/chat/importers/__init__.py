"""Import chat logs: 14 formats in, conversations out, without personal data."""

from respect_core.scenarios.chat.importers.conversation import ChatTurn, Conversation, Message, Sibling, ToolCall
from respect_core.scenarios.chat.importers.reading import NothingUsableError, read_conversations
from respect_core.scenarios.chat.importers.summary import Imported

__all__ = [
    "ChatTurn",
    "Conversation",
    "Imported",
    "Message",
    "NothingUsableError",
    "Sibling",
    "ToolCall",
    "read_conversations",
]
