"""Part what a model writes into text and calls of tools, while it is being written."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from respect_core.scenarios.chat.reply import CALL, Part, call, called


class Deltas:
    """The message that pieces of text make, as OpenAI's stream has it.

    Text is handed on at once, except for a line that may still become a call of a tool, where tools are on offer.
    """

    def __init__(self, *, tools: bool) -> None:
        self._tools = tools
        self._line = ""  # what is not handed on of the last line
        self._open = False  # the beginning of that line is handed on, as text
        self._lines = 0  # lines of text so far
        self.content = ""
        self.calls: list[dict[str, Any]] = []

    def feed(self, text: str) -> Iterator[dict[str, Any]]:
        """Yield what a piece adds to the message."""
        if not self._tools:
            if text:
                yield self._say(text)
            return
        *whole, self._line = (self._line + text).split("\n")
        for line in whole:
            yield from self._end_line(line)
        undecided = self._line.startswith(CALL) or CALL.startswith(self._line)
        if self._line and (self._open or not undecided):
            yield from self._text(self._line)
            self._line, self._open = "", True

    def end(self) -> Iterator[dict[str, Any]]:
        """Yield what was held back."""
        if self._tools:
            yield from self._end_line(self._line)

    def message(self) -> dict[str, Any]:
        """Return the whole message."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.calls:
            message |= {"content": self.content or None, "tool_calls": self.calls}
        return message

    def part(self) -> Part:
        """Return the message as a log has it."""
        functions = [each["function"] for each in self.calls]
        return Part("assistant", self.content, tuple(call(each["name"], each["arguments"]) for each in functions))

    def _end_line(self, line: str) -> Iterator[dict[str, Any]]:
        made = None if self._open else called(line)
        if made is None:
            yield from self._text(line)
        else:
            name, arguments = made
            function = {"name": name, "arguments": arguments}
            self.calls.append({"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function})
            yield {"tool_calls": [{"index": len(self.calls) - 1, **self.calls[-1]}]}
        self._open = False

    def _text(self, text: str) -> Iterator[dict[str, Any]]:
        if not self._open:
            text = "\n" + text if self._lines else text
            self._lines += 1
        if text:
            yield self._say(text)

    def _say(self, text: str) -> dict[str, Any]:
        self.content += text
        return {"content": text}
