"""Simulated users of the smart home who talk to a gateway without end, as any program does: through openai's client."""

from __future__ import annotations

import itertools
import threading
import zlib
from typing import Any

import openai

from respect_core.acting.listener import Act
from respect_core.log.records import PolicyIdentity
from respect_core.measuring.world import Deployment, world
from respect_core.scenario import Message, scenario

_NOBODY = Deployment(0, "gateway", PolicyIdentity(name="gateway", version="unknown"), 0)


class Users:
    """Users in threads of their own, and who answered them, by the reply's id."""

    def __init__(self, url: str, at_once: int = 3) -> None:
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300, max_retries=5)
        self.answered: dict[str, str] = {}
        self.conversations = 0
        self._numbers, self._stop = itertools.count(), threading.Event()
        self._threads = [threading.Thread(target=self._talk) for _ in range(at_once)]
        self._failed: list[Exception] = []

    def __enter__(self) -> Users:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert not self._failed

    def say(self, conversation: str, *said: str) -> str:
        """Say something more in a conversation with b-fft, which so far was this in turns; return who answers."""
        roles = itertools.cycle(("user", "assistant"))
        told = [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
        return self._ask(conversation, told, "respect.b-fft")[0]

    def _ask(self, conversation: str, told: Any, model: str, *, stream: bool = False) -> tuple[str, str]:
        """Return the version that answered and the reply, once all of it has arrived."""
        options: dict[str, Any] = {"model": model, "messages": told, "user": conversation, "stream": stream}
        answer: Any = self.client.chat.completions.create(**options, extra_headers={"X-Conversation-Id": conversation})
        chunks = list(answer) if stream else [answer]
        version = str(chunks[0].system_fingerprint)
        choices = [choice for chunk in chunks for choice in chunk.choices]
        if any(choice.finish_reason for choice in choices):
            self.answered[chunks[0].id] = version
        parts = [choice.delta if stream else choice.message for choice in choices]
        return version, "".join(part.content or "" for part in parts)

    def _talk(self) -> None:
        try:
            while not self._stop.is_set():
                self._converse(next(self._numbers))
        except Exception as error:
            self._failed.append(error)

    def _converse(self, number: int) -> None:
        home = scenario("home")
        (user,) = world("home").interactions(1, f"stack-{number}", _NOBODY)
        while not user.over and not self._stop.wait(0.3):
            seen = user.seen()
            told = [{"role": each["role"], "content": _text(each)} for each in home.messages(seen)]
            _, text = self._ask(f"user-{number}", told, "respect", stream=number % 2 == 0)
            user.act(Act(home.accept(text, seen).action, 1.0), 0.0)
        self.conversations += 1


def judged(prompt: str) -> dict[str, Any]:
    """A judge who is pleased with every other follow-up."""
    pleased = zlib.crc32(prompt.encode()) % 2 == 0
    words = {"Positive": -0.1 if pleased else -3.0, "Negative": -3.0 if pleased else -0.1, "Neutral": -6.0}
    listed = [{"token": token, "logprob": value} for token, value in words.items()]
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    return {"choices": [{"logprobs": {"content": [{"top_logprobs": listed}]}}], "usage": usage}


def _text(message: Message) -> str:
    return "".join(part["text"] for part in message["content"])
