"""Write a reply, and make the record that rounds learn from."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING, Any

from deployments.serving.gateway.conversations import Assigned, begun
from deployments.serving.gateway.deltas import Deltas
from deployments.serving.gateway.wire import Answer, ApiError, ChatRequest, usage
from deployments.serving.versions import ServedVersion
from respect_core.acting.reply import Emit, Piece, Reply, Sampling
from respect_core.log.served_chats import ServedChat
from respect_core.model import packing
from respect_core.scenario import Message as PromptMessage
from respect_core.scenarios.chat import reply
from respect_core.scenarios.chat.importers.conversation import (
    Message,
    ToolCall,
)

if TYPE_CHECKING:
    from deployments.serving.gateway.gateway import Caller, Gateway


@dataclass(frozen=True)
class Asked:
    """What a model is asked: messages, their tokens, and how to draw the reply."""

    messages: Sequence[PromptMessage]
    prompt: packing.Encoded
    sampling: Sampling


class Turn:
    """A reply that is being written, and all that its record needs."""

    def __init__(
        self,
        gateway: Gateway[Any],
        request: ChatRequest,
        messages: Sequence[Message],
        user: str,
        known: str | None,
        assigned: Assigned,
        served: ServedVersion,
        background: bool,
        agreed: bool,
        at: datetime,
        began: float,
        asked: Asked,
        caller: Caller,
    ) -> None:
        self._gateway, self._request, self._messages = gateway, request, messages
        self.user, self.known, self.assigned, self.served, self.background = user, known, assigned, served, background
        self.agreed = agreed  # the user, to what is logged
        self._at, self._began, self._asked, self._caller = at, began, asked, caller
        self.answer = Answer(request, served.name)
        self.deltas = Deltas(tools=bool(request.tools) and request.tool_choice != "none")
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue()
        self._text = ""
        self._tokens: list[int] = []
        self._token_logp: list[float] = []
        self._first_token: float | None = None
        self._recorded, self._recording = False, Lock()
        self._last: Piece | None = None

    def begin(self, submit: Callable[[packing.Encoded, Sampling, Emit], Reply]) -> None:
        """Queue the reply. Raises OverloadedError."""
        loop = asyncio.get_running_loop()

        def emit(piece: Piece) -> None:
            with suppress(RuntimeError):  # the loop is closed, and nobody listens
                loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

        self._reply = submit(self._asked.prompt, self._asked.sampling, emit)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield the pieces of the reply as they are written. Raises ApiError if writing it fails."""
        while self._last is None:
            piece = await self._pieces.get()
            if piece.finish == "error":
                if self._reply.fault:
                    await asyncio.to_thread(
                        self._gateway.follower.failed, self.assigned.variant, self.served, self._reply.fault
                    )
                raise ApiError(500, "the reply could not be written; the server's log has more")
            if self._first_token is None:
                self._first_token = time.perf_counter() - self._began
            self._text += piece.text
            self._tokens += piece.tokens
            self._token_logp += piece.token_logp
            self._last = piece if piece.finish else None
            yield piece

    @property
    def finish_reason(self) -> str:
        """Why the reply ended, in OpenAI's words."""
        assert self._last is not None and self._last.finish is not None
        return "tool_calls" if self.deltas.calls and self._last.finish == "stop" else self._last.finish

    @property
    def usage(self) -> dict[str, int]:
        """The numbers of tokens."""
        return usage(len(self._asked.prompt.input_ids), len(self._tokens))

    def logprobs(self, piece: Piece) -> list[dict[str, Any]]:
        """Return the tokens of a piece with their log-probabilities, as an answer has them."""
        decode = self.served.processor.tokenizer.decode
        named = [(decode([token]), logp) for token, logp in zip(piece.tokens, piece.token_logp, strict=True)]
        return [
            {"token": text, "logprob": logp, "bytes": list(text.encode()), "top_logprobs": []} for text, logp in named
        ]

    def record(self) -> None:
        """Log the reply, before its end is sent. Raises NotLoggedError, or StoreError in a first turn."""
        with self._recording:
            if not self._recorded:
                self._gateway.record(self, self._chat(cut=False))
                self._recorded = True

    def cut(self) -> None:
        """Stop writing, and log what there is as cut; do nothing after `record`."""
        self._reply.cancel()
        with self._recording:
            if not self._recorded:
                self._recorded = True
                self._gateway.log_cut(self, self._chat(cut=True))

    def _chat(self, *, cut: bool) -> ServedChat:
        said = Message("assistant", self.deltas.content, _calls(self.deltas.calls))
        *before, answer = self._gateway.redacted([*self._messages, said])
        given = list(self._request.tools or ()) if self._request.tool_choice != "none" else []
        tools = self._gateway.redacted_tools(given)
        choice: dict[str, Any] = {
            "index": 0,
            "message": _dumped(answer),
            "finish_reason": None if cut else self.finish_reason,
            "cut": cut,
        }
        unmasked = [*before, answer] == [*self._messages, said] and tools == given
        if unmasked and not cut and self._is_exact():  # else its tokens would give away what is masked
            choice |= {
                "token_ids": self._tokens,
                "logprobs": {"content": [{"logprob": value} for value in self._token_logp]},
            }
        request = {
            "model": self._request.model,
            "messages": [_dumped(message) for message in before],
            "temperature": self._asked.sampling.temperature,
            "top_p": self._asked.sampling.top_p,
            "max_tokens": self._asked.sampling.max_tokens,
            **({"tools": tools} if tools else {}),
            **({} if self._request.seed is None else {"seed": self._request.seed}),
        }
        known = self.known or begun(self.user, self._request.model, [*self._messages, said])
        assert known is not None, "there is a message of the assistant"
        return ServedChat(
            id=self.answer.id,
            time=self._at.isoformat(),
            conversation_id=known,
            user=self.user,
            consent=self.assigned.consent,
            address_prefix=self._caller.address_prefix,
            signed_in=self._caller.signed_in,
            scenario=self.served.scenario.name,
            base=self.served.base,
            variant=self.assigned.variant,
            version=self.served.name,
            adapter_hash=self.served.adapter_hash,
            round=self.assigned.round,
            offered=self.assigned.offered,
            background=self.background,
            cut=cut,
            idle=self._gateway.settings.idle,
            first_token=self._first_token,
            seconds=time.perf_counter() - self._began,
            request=request,
            response={"id": self.answer.id, "model": self.served.name, "choices": [choice], "usage": self.usage},
        )

    def _is_exact(self) -> bool:
        """Return whether training, which sees the text, would score these very tokens after this very prompt."""
        if self._last is None or self._last.logp is None:
            return False
        messages = [*self._asked.messages, *reply.messages(reply.written([self.deltas.part()]))]
        return packing.continues(self._asked.prompt, self._tokens, messages, self.served.processor)


def _calls(calls: Sequence[Mapping[str, Any]]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(each["function"]["name"], each["function"]["arguments"], each["id"]) for each in calls)


def _dumped(message: Message) -> dict[str, Any]:
    """Return a message in OpenAI's form, without ids of calls, which are the client's."""
    calls = [
        {"type": "function", "function": {"name": each.name, "arguments": each.arguments}}
        for each in message.tool_calls
    ]
    given = {
        "role": message.role,
        "content": message.content,
        "tool_calls": calls,
        "name": message.name if message.role == "tool" else None,  # of a user, it may be anybody's
    }
    return {name: value for name, value in given.items() if value or name == "content"}
