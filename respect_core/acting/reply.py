"""A reply that is written token by token: its text as it grows, where it stops, and its log-probability.

A reply that is stopped, cut or at its limit has no end token, so that its log-probability is not that of the whole
reply as training scores it; `Piece.logp` is None there.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from tokenizers.decoders import DecodeStream

from respect_core.model.packing import Encoded

Finish = Literal["stop", "length", "error"]


@dataclass(frozen=True)
class Sampling:
    """How a reply is drawn. `temperature` 0 takes the most probable token."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None  # None: another reply each time
    max_tokens: int = 512
    stop: tuple[str, ...] = ()  # the reply ends before any of these


@dataclass(frozen=True)
class Piece:
    """What a reply has gained: `text` to hand on, and the tokens drawn for it with their log-probabilities.

    The last piece has a `finish`. `logp` is then that of the whole reply under its sampling distribution, None where
    it did not end by itself.
    """

    text: str
    tokens: tuple[int, ...] = ()
    token_logp: tuple[float, ...] = ()
    finish: Finish | None = None
    logp: float | None = None


Emit = Callable[[Piece], None]
"""Called in the engine's thread, in order."""


@dataclass(eq=False)
class Reply:
    """A reply that is being written, or waits to be."""

    prompt: Encoded
    sampling: Sampling
    emit: Emit
    cancelled: bool = False
    tokens: list[int] = field(default_factory=list)
    logp: float = 0.0
    plain: bool = True  # every token so far is ordinary text
    fault: str = ""  # why the model failed to write it, if it did
    _held: str = ""  # text that may be the beginning of a stop

    def cancel(self) -> None:
        """Write no more of it. May be called by any thread."""
        self.cancelled = True

    def __post_init__(self) -> None:
        seed = secrets.randbits(62) if self.sampling.seed is None else self.sampling.seed
        self.generator = torch.Generator().manual_seed(seed)
        self._decoder = DecodeStream(skip_special_tokens=True)

    def add(self, token: int, logp: float, tokenizer: Any, end_id: int) -> bool:
        """Take the next token and hand on its text; return whether the reply is unfinished."""
        self.logp += logp
        self.tokens.append(token)
        if token == end_id:
            self._finish(self._held, "stop", (token,), (logp,), self.logp if self.plain else None)
            return False
        self.plain = self.plain and token not in tokenizer.all_special_ids
        text = self._held + self._decoded(token, tokenizer)
        ends = [place for stop in self.sampling.stop if (place := text.find(stop)) >= 0]
        if ends:
            self._finish(text[: min(ends)], "stop", (token,), (logp,))
            return False
        if len(self.tokens) >= self.sampling.max_tokens:
            self._finish(text, "length", (token,), (logp,))
            return False
        held = max((_overlap(text, stop) for stop in self.sampling.stop), default=0)
        self._held = text[len(text) - held :]
        self.emit(Piece(text[: len(text) - held], (token,), (logp,)))
        return True

    def _decoded(self, token: int, tokenizer: Any) -> str:
        """Return what a token adds to the text: nothing until its characters are whole."""
        try:
            return self._decoder.step(tokenizer.backend_tokenizer, token) or ""
        except Exception:  # tokens that are no text together
            self._decoder, self.plain = DecodeStream(skip_special_tokens=True), False
            return ""

    def fail(self, fault: str = "") -> None:
        """End it without an answer.

        Args:
            fault: the model's, if it is.
        """
        self.fault = fault
        self._finish("", "error")

    def _finish(
        self,
        text: str,
        finish: Finish,
        tokens: tuple[int, ...] = (),
        token_logp: tuple[float, ...] = (),
        logp: float | None = None,
    ) -> None:
        self.emit(Piece(text, tokens, token_logp, finish, None if logp is None else min(0.0, logp)))


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that `stop` begins with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
