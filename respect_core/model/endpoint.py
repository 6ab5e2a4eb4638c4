"""Ask a model behind an OpenAI-compatible endpoint.

The key is RESPECT's setting OPENAI_API_KEY, and enters no message. Messages name the endpoint's host alone, because an
address may hold a password.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

from respect_core.errors import ExpectedError
from respect_core.scenario import Message
from respect_core.settings import settings

Progress = Callable[[int, int], None]
"""Called after each answer, in order, with the number so far and of all."""

_NAMED = re.compile(r"openai:(?P<model>.+)@(?P<url>https?://\S+)")
_MOST_LOGPROBS = 20  # that such endpoints give
_BUSY = {408, 425, 429, 500, 502, 503, 504}


class EndpointError(ExpectedError):
    """The endpoint cannot be used at all: no answer, or it refuses every request of this kind."""


class FirstToken(NamedTuple):
    """The likeliest first tokens of an answer with their log-probabilities, and the tokens that asking cost."""

    logp: dict[str, float]
    tokens: int


@dataclass(frozen=True)
class Endpoint:
    """A model and the address under which `/chat/completions` is, such as http://127.0.0.1:8000/v1."""

    model: str
    url: str
    seconds: float = 60.0  # for an answer
    tries: int = 3
    pause: float = 1.0  # before the second try; twice that before the third

    @classmethod
    def named(cls, text: str) -> Endpoint:
        """Return what openai:MODEL@URL names. Raises ValueError for another form."""
        if (match := _NAMED.fullmatch(text)) is None:
            raise ValueError(f"{text.partition('@')[0]!r}: name an endpoint as openai:MODEL@URL, with http or https")
        if urlsplit(match["url"]).username is not None:
            raise ValueError(f"openai:{match['model']}: leave the address without a name; the key is OPENAI_API_KEY")
        return cls(match["model"], match["url"].rstrip("/"))

    @property
    def host(self) -> str:
        """Where it is, for messages."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"

    def answers(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        tokens: int,
        concurrency: int,
        progress: Progress | None = None,
    ) -> list[str | None]:
        """Return an answer to each prompt, in order; None where what came back is no answer.

        Args:
            tokens: most of an answer.
            concurrency: most requests at a time.

        Raises:
            EndpointError: see there.
        """
        replies = self._ask(prompts, {"max_tokens": tokens}, concurrency, progress)
        return [_text(reply) for reply in replies]

    def first_tokens(
        self, prompts: Sequence[Sequence[Message]], *, concurrency: int, progress: Progress | None = None
    ) -> list[FirstToken | None]:
        """Return what an answer to each prompt may begin with, in order; None where nothing of the kind came back.

        Raises:
            EndpointError: see there.
        """
        options = {"max_tokens": 1, "logprobs": True, "top_logprobs": _MOST_LOGPROBS}
        return [_first_token(reply) for reply in self._ask(prompts, options, concurrency, progress)]

    def _ask(
        self,
        prompts: Sequence[Sequence[Message]],
        options: Mapping[str, Any],
        concurrency: int,
        progress: Progress | None,
    ) -> list[Any]:
        """Return what came back for each prompt, in order, as JSON; None where it is none."""
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if (key := settings().openai_api_key) else {}
        replies: list[Any] = []
        with (
            httpx.Client(headers=headers, timeout=self.seconds) as client,
            ThreadPoolExecutor(max_workers=concurrency) as pool,
        ):
            waiting = [pool.submit(self._post, client, prompt, options) for prompt in prompts]
            try:
                for future in waiting:
                    replies.append(future.result())
                    if progress is not None:
                        progress(len(replies), len(prompts))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return replies

    def _post(self, client: httpx.Client, prompt: Sequence[Message], options: Mapping[str, Any]) -> Any:
        body = {"model": self.model, "messages": list(prompt), "temperature": 0, **options}
        for attempt in range(self.tries):
            try:
                reply = client.post(f"{self.url}/chat/completions", json=body)
            except httpx.TransportError as error:
                if attempt + 1 == self.tries:
                    raise EndpointError(
                        f"{self.model} at {self.host} does not answer ({type(error).__name__}): start it, or correct "
                        "the address"
                    ) from None
            else:
                if reply.status_code not in _BUSY:
                    break
            if attempt + 1 < self.tries:
                time.sleep(self.pause * 2**attempt)
        else:
            return None
        if reply.is_error:
            raise EndpointError(
                f"{self.model} at {self.host} refuses with status {reply.status_code}: check the model's name, the "
                "address, which usually ends in /v1, and OPENAI_API_KEY"
            )
        try:
            return reply.json()
        except ValueError:
            return None


def _text(reply: Any) -> str | None:
    try:
        text = reply["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        return None
    return text if isinstance(text, str) else None


def _first_token(reply: Any) -> FirstToken | None:
    try:
        likely = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        logp = {str(each["token"]): float(each["logprob"]) for each in likely}
        used = reply.get("usage") or {}
        tokens = int(used.get("prompt_tokens", 0)) + int(used.get("completion_tokens", 0))
    except (LookupError, TypeError, ValueError, AttributeError):
        return None
    return FirstToken(logp, tokens) if logp else None
