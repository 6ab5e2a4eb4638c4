"""Define what passes over the wire: requests, answers, chunks and errors of OpenAI's chat API.

Fields that only a client's interface reads are ignored. Those that would change the answer, and are not offered, are
refused with their name.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from respect_core.acting.reply import Sampling
from respect_core.errors import ExpectedError

MOST_MESSAGES = 2_000
Id = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class ApiError(ExpectedError):
    """A refusal, in OpenAI's form. `message` repeats nothing that a user wrote."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self.body = {"error": {"message": message, "type": _type(status), "param": param, "code": code}}


def _type(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


class StreamOptions(BaseModel):
    """What a stream has besides the answer."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """A request for the assistant's next message. Messages and tools are read as those of chat logs are."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: Id
    messages: list[dict[str, Any]] = Field(min_length=1, max_length=MOST_MESSAGES)
    tools: list[dict[str, Any]] | None = Field(default=None, max_length=128)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: list[Annotated[str, StringConstraints(min_length=1, max_length=256)]] | None = Field(
        default=None, max_length=4
    )
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    logprobs: bool = False
    user: Id | None = None
    metadata: dict[str, Any] | None = None
    # These are offered at their defaults only.
    n: Literal[1, None] = None
    top_logprobs: Literal[0, None] = None
    frequency_penalty: Literal[0, None] = None
    presence_penalty: Literal[0, None] = None
    logit_bias: dict[str, Any] | None = Field(default=None, max_length=0)
    tool_choice: Literal["auto", "none", None] = None
    response_format: dict[str, Any] | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("logprobs", "stream", mode="before")
    @classmethod
    def _false(cls, value: object) -> object:
        return False if value is None else value

    @field_validator("response_format")
    @classmethod
    def _text(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and value.get("type") != "text":
            raise ValueError("only text is offered; ask for JSON in a message")
        return value

    def sampling(self, temperature: float, most: int) -> Sampling:
        """Return how to draw the answer.

        Args:
            temperature: where the request names none.
            most: tokens that there is room for.
        """
        return Sampling(
            temperature=temperature if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            seed=None if self.seed is None else self.seed % 2**63,
            max_tokens=min(most, self.max_completion_tokens or self.max_tokens or most),
            stop=tuple(self.stop or ()),
        )

    def named(self, name: str) -> str | None:
        """Return what the client's metadata says under a name, such as 'conversation_id' or 'consent'."""
        value = (self.metadata or {}).get(name)
        return str(value)[:512] if isinstance(value, str | int) and str(value) else None


class Answer:
    """The answer to one request, as it grows; renders it as one object, or as chunks of a stream."""

    def __init__(self, request: ChatRequest, version: str) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._request, self._version = request, version

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self._created,
            "model": self._request.model,
            "system_fingerprint": self._version,
        }

    def whole(
        self, message: dict[str, Any], finish: str, logprobs: Sequence[dict[str, Any]], usage: dict[str, int]
    ) -> dict[str, Any]:
        """Return the answer as one object."""
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
        if self._request.logprobs:
            choice["logprobs"] = {"content": list(logprobs), "refusal": None}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage}

    def chunk(self, delta: dict[str, Any], finish: str | None = None, logprobs: Sequence[dict[str, Any]] = ()) -> bytes:
        """Return an event of the stream."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        if self._request.logprobs and logprobs:
            choice["logprobs"] = {"content": list(logprobs), "refusal": None}
        return event({**self._head("chat.completion.chunk"), "choices": [choice]})

    def usage(self, usage: dict[str, int]) -> bytes:
        """Return the event with the numbers of tokens."""
        return event({**self._head("chat.completion.chunk"), "choices": [], "usage": usage})


DONE = b"data: [DONE]\n\n"


def event(body: dict[str, Any]) -> bytes:
    """Return an event of a stream with a JSON body."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Return the numbers of tokens, as an answer has them."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
