"""Ask a model behind an OpenAI-compatible endpoint: FOR MEASURING ONLY.

The key is RESPECT's setting OPENAI_API_KEY, and enters no message. Messages name the endpoint's host alone, because an
address may hold a password.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from respect_core.errors import ExpectedError
from respect_core.scenario import Message
from respect_core.settings import settings

_NAMED = re.compile(r"openai:(?P<model>.+)@(?P<url>https?://\S+)")
_BUSY = {408, 425, 429, 500, 502, 503, 504}


class EndpointError(ExpectedError):
    """The endpoint cannot be used at all: no answer, or it refuses every request of this kind."""


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
        progress: Callable[[int, int], None] | None = None,
    ) -> list[str | None]:
        """Return an answer to each prompt, in order; None where what came back is no answer.

        Args:
            tokens: most of an answer.
            concurrency: most requests at a time.

        Raises:
            EndpointError: see there.
        """
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if (key := settings().openai_api_key) else {}
        answers: list[str | None] = []
        with (
            httpx.Client(headers=headers, timeout=self.seconds) as client,
            ThreadPoolExecutor(max_workers=concurrency) as pool,
        ):
            waiting = [pool.submit(self._answer, client, prompt, tokens) for prompt in prompts]
            try:
                for future in waiting:
                    answers.append(future.result())
                    if progress is not None:
                        progress(len(answers), len(prompts))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return answers

    def _answer(self, client: httpx.Client, prompt: Sequence[Message], tokens: int) -> str | None:
        body = {"model": self.model, "messages": list(prompt), "max_tokens": tokens, "temperature": 0}
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
            text = reply.json()["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            return None
        return text if isinstance(text, str) else None
