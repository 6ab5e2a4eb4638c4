"""Write replies token by token for many callers at once: rows join and leave the batch between two tokens.

Shapes: B rows, P tokens in the cache, padding included, V vocabulary, K key-value heads, D head width.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from transformers import Cache

from respect_core.acting.batcher import OverloadedError
from respect_core.acting.decoding import NotANumberError, Prefilled, Writer, choose, evaluating
from respect_core.acting.kv_cache import growing_cache
from respect_core.acting.reply import Emit, Reply, Sampling
from respect_core.model.base import inner
from respect_core.model.packing import PASS_TOKENS, Encoded

log = logging.getLogger(__name__)
Version = TypeVar("Version")
PART = 512
"""Tokens of a long prompt that run between two tokens of the others' replies."""


class _Batch:
    """The replies that one model is writing, and their keys and values."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._tokenizer = writer.chat.processor.tokenizer
        self.rows: list[Reply] = []
        self._begun: deque[tuple[Reply, Iterator[Prefilled | None]]] = deque()  # whose prompts run in parts
        self._cache: Cache | None = None
        self._mask_BP: Tensor
        self._positions_B: Tensor

    @property
    def replies(self) -> list[Reply]:
        """The replies that are here, whether anything is written of them or not."""
        return [*self.rows, *(reply for reply, _ in self._begun)]

    def join(self, replies: list[Reply]) -> None:
        """Take replies in: run short prompts and draw their first tokens, and leave long ones to `read`."""
        kept = {reply: self._writer.cache.kept(reply.prompt) for reply in replies}
        long = [r for r in replies if len(r.prompt.input_ids) - kept[r] > PART and not r.prompt.images]
        self._begun += [(reply, self._writer.prefill_in_parts(reply.prompt, PART)) for reply in long]
        for alike in ([r for r in replies if kept[r]], [r for r in replies if not kept[r]]):
            if short := [reply for reply in alike if reply not in long]:
                self._enter(short, self._writer.prefill([reply.prompt for reply in short]))

    def read(self) -> None:
        """Run a part of a long prompt, and draw the first token after its last part."""
        while self._begun and self._begun[0][0].cancelled:
            self._begun.popleft()
        if self._begun and (prefilled := next(self._begun[0][1])) is not None:
            self._enter([self._begun.popleft()[0]], prefilled)

    def clear(self) -> None:
        """Forget all replies."""
        self.rows = []
        self._begun.clear()

    def room(self, replies: list[Reply], reply: Reply) -> bool:
        """Return whether a reply can join with these, so that no long prompt multiplies the memory of the others."""
        rows = [*self.replies, *replies, reply]
        width = max([self._mask_BP.shape[1] if self.rows else 0, *(len(each.prompt.input_ids) for each in rows)])
        return len(rows) == 1 or len(rows) * width <= PASS_TOKENS

    def _enter(self, replies: list[Reply], prefilled: Prefilled) -> None:
        logits_BV, cache, mask_BP, positions_B = prefilled
        unfinished = self._draw(replies, logits_BV)
        joined, keep = [reply for reply, on in zip(replies, unfinished, strict=True) if on], _places(unfinished)
        if not joined:
            return
        if len(joined) < len(replies):
            rows = torch.tensor(keep, device=mask_BP.device)
            cache.batch_select_indices(rows)
            mask_BP, positions_B = mask_BP[rows], positions_B[rows]
        if self._cache is not None and self.rows:
            width = max(self._mask_BP.shape[1], mask_BP.shape[1])
            cache = _stacked(self._cache, cache, width)
            mask_BP = torch.cat([_widened(self._mask_BP, width), _widened(mask_BP, width)])
            positions_B = torch.cat([self._positions_B, positions_B])
        self._cache, self._mask_BP, self._positions_B = cache, mask_BP, positions_B
        self.rows += joined

    def step(self) -> None:
        """Draw the next token of every reply."""
        self._drop([reply.cancelled for reply in self.rows])
        if not self.rows:
            return
        model = inner(self._writer.model)
        mask_BP = torch.cat([self._mask_BP, self._mask_BP.new_ones(len(self.rows), 1)], dim=1)
        hidden_B1H = model.model(
            input_ids=torch.tensor([[reply.tokens[-1]] for reply in self.rows], device=model.device),
            attention_mask=mask_BP,
            position_ids=self._positions_B[:, None],
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        logits_BV = model.get_output_embeddings()(hidden_B1H[:, -1]).float()
        self._mask_BP, self._positions_B = mask_BP, self._positions_B + 1
        self._drop([not on for on in self._draw(self.rows, logits_BV)])

    def _draw(self, replies: list[Reply], logits_BV: Tensor) -> list[bool]:
        """Draw a token for each reply; return which are unfinished."""
        uniform_B = torch.cat([torch.rand(1, generator=each.generator, dtype=torch.float64) for each in replies])
        kinds: dict[tuple[float, float], list[int]] = {}
        for row, reply in enumerate(replies):
            kinds.setdefault((reply.sampling.temperature, reply.sampling.top_p), []).append(row)
        unfinished = [False] * len(replies)
        for (temperature, top_p), rows in kinds.items():
            logits = _nucleus(logits_BV[rows], temperature, top_p)
            tokens, logp = choose(logits, uniform_B[rows], temperature)
            if logp.isnan().any():
                raise NotANumberError("the policy gives probabilities that are not numbers; roll it back")
            for row, token, value in zip(rows, tokens.tolist(), logp.tolist(), strict=True):
                unfinished[row] = replies[row].add(token, value, self._tokenizer, self._writer.chat.end_id)
        return unfinished

    def _drop(self, ended: list[bool]) -> None:
        """Leave rows out, and the columns that no other row uses."""
        if not any(ended):
            return
        keep = _places([not end for end in ended])
        self.rows = [self.rows[row] for row in keep]
        if not self.rows:
            self._cache = None
            return
        assert self._cache is not None
        rows = torch.tensor(keep, device=self._mask_BP.device)
        self._cache.batch_select_indices(rows)
        self._mask_BP, self._positions_B = self._mask_BP[rows], self._positions_B[rows]
        unused = int(self._mask_BP.any(0).int().argmax())
        if unused:
            for layer in _layers(self._cache):
                layer.keys, layer.values = layer.keys[:, :, unused:], layer.values[:, :, unused:]
            self._mask_BP = self._mask_BP[:, unused:]


def _places(flags: list[bool]) -> list[int]:
    return [place for place, flag in enumerate(flags) if flag]


def _nucleus(logits_BV: Tensor, temperature: float, top_p: float) -> Tensor:
    """Leave only the most probable tokens, which together have `top_p` of the probability."""
    if top_p >= 1.0 or not temperature:
        return logits_BV
    ordered_BV, order_BV = (logits_BV / temperature).softmax(-1).sort(-1, descending=True)
    beyond_BV = ordered_BV.cumsum(-1) - ordered_BV >= top_p  # the first token is never beyond
    return logits_BV.masked_fill(torch.zeros_like(beyond_BV).scatter(-1, order_BV, beyond_BV), -torch.inf)


def _layers(cache: Cache) -> list[Any]:
    return list(cache.layers)


def _stacked(first: Cache, second: Cache, width: int) -> Cache:
    """Put the rows of two caches one below the other, each padded on the left to `width` tokens."""
    result = growing_cache()
    for number, (one, other) in enumerate(zip(_layers(first), _layers(second), strict=True)):
        keys, values = (
            torch.cat([_padded(getattr(one, name), width), _padded(getattr(other, name), width)])
            for name in ("keys", "values")
        )
        result.update(keys, values, number)
    return result


def _padded(tensor_BKPD: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(tensor_BKPD, (0, 0, width - tensor_BKPD.shape[2], 0))


def _widened(mask_BP: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(mask_BP, (width - mask_BP.shape[1], 0), value=False)


_Kind = tuple[Version, int]
"""A version and a class of lengths."""


def _length_class(prompt: Encoded) -> int:
    """Return 0 for a prompt of up to 512 tokens, 1 up to 2,048, 2 up to 8,192, and so on."""
    return max(0, (len(prompt.input_ids) - 1).bit_length() - 8) // 2


class Streams(Generic[Version]):
    """A thread that writes the replies of many callers, with any number of models.

    Models take turns, a token for every reply of each, and so do a model's replies to short and to long prompts, which
    would otherwise be as slow as the longest. A failure ends the replies of that model and length alone.

    Args:
        writer_of: a version's writer.
        most: replies that one model writes at a time; others wait.
        queue: replies that may wait.
    """

    def __init__(self, writer_of: Callable[[Version], Writer], *, most: int = 64, queue: int = 1024) -> None:
        self._writer_of, self._most, self._queue = writer_of, most, queue
        self._wake = threading.Condition()
        self._waiting: dict[_Kind[Version], deque[Reply]] = {}
        self._batches: dict[_Kind[Version], _Batch] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="streams", daemon=True)
        self._thread.start()

    def submit(self, version: Version, prompt: Encoded, sampling: Sampling, emit: Emit) -> Reply:
        """Queue a reply.

        Raises:
            OverloadedError: too many wait.
        """
        reply = Reply(prompt, sampling, emit)
        with self._wake:
            if self._closing or self._count_waiting() >= self._queue:
                raise OverloadedError(f"{self._queue} requests are waiting")
            self._waiting.setdefault((version, _length_class(prompt)), deque()).append(reply)
            self._wake.notify()
        return reply

    @property
    def waiting(self) -> int:
        """Number of replies of which nothing is written yet."""
        with self._wake:
            return self._count_waiting()

    def _count_waiting(self) -> int:
        return sum(not reply.cancelled for queue in self._waiting.values() for reply in queue)

    @property
    def writing(self) -> int:
        """Number of replies that are being written."""
        with self._wake:
            return sum(len(batch.replies) for batch in self._batches.values())

    def close(self) -> None:
        """Finish all replies, then stop."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._batches:
                    if self._closing:
                        return
                    self._wake.wait()
                kinds = list({**self._batches, **self._waiting})
            for kind in kinds:
                self._advance(kind)

    def _advance(self, kind: _Kind[Version]) -> None:
        """Let waiting replies of a kind in, and draw a token for those that are in already."""
        writer = self._writer_of(kind[0])
        batch = self._batches.get(kind) or _Batch(writer)
        with self._wake:
            queue = deque(reply for reply in self._waiting.pop(kind, ()) if not reply.cancelled)
            new: list[Reply] = []
            while queue and len(batch.replies) + len(new) < self._most and batch.room(new, queue[0]):
                new.append(queue.popleft())
            if queue:
                self._waiting[kind] = queue
            self._batches[kind] = batch
        try:
            with evaluating(writer.model):
                batch.step()
                batch.read()
                if alive := [reply for reply in new if not reply.cancelled]:
                    batch.join(alive)
        except Exception as error:
            log.error("replies of %s fail (%s)", kind[0], type(error).__name__)
            for reply in {*batch.replies, *new}:
                reply.fail(type(error).__name__)
            batch.clear()
        if not batch.replies:
            with self._wake:
                del self._batches[kind]
