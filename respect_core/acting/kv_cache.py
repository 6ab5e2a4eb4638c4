"""Cache the keys and values of games in play: prompts only grow, so that each turn runs only its new tokens.

Shapes: L layers, B rows, K key-value heads, P cached tokens, T new tokens, D head width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from respect_core.model.packing import Encoded

_ROOM = 64  # tokens


def default_budget(device: torch.device) -> int:
    """Return the bytes that a cache may take: 2 GiB, or a quarter of what is free on an accelerator if that is more.

    A token of IDEFICS2-8B takes 131 kB in bf16, and so a game of 700 tokens 92 MB: 64 games that take turns would find
    nothing in a cache for 22.
    """
    plain = 2 << 30
    return max(plain, torch.cuda.mem_get_info(device)[0] // 4) if device.type == "cuda" else plain


def growing_cache() -> Cache:
    """Return an empty cache for decoding token by token."""
    return Cache(layer_class_to_replicate=GrowingLayer)


class GrowingLayer(DynamicLayer):
    """One layer's keys and values [B, K, P, D] with spare room, into which a new token is written.

    Without it, each token of a reply would copy those of all tokens before.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rooms: list[Tensor | None] = [None, None]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values [B, K, T, D]; return those of all tokens."""
        if self.keys is None or self.values is None or key_states.shape[2] > 1:
            return super().update(key_states, value_states, *args, **kwargs)
        self.keys, self.values = self._appended(0, self.keys, key_states), self._appended(1, self.values, value_states)
        return self.keys, self.values

    def _appended(self, index: int, kept: Tensor, new: Tensor) -> Tensor:
        length, room = kept.shape[2], self._rooms[index]
        # Rows that left, or columns that were cut off, have made `kept` a tensor of its own.
        if room is None or room.data_ptr() != kept.data_ptr() or kept.shape[0] != len(room) or length == room.shape[2]:
            room = kept.new_empty(*kept.shape[:2], length + _ROOM, kept.shape[3])
            room[:, :, :length] = kept
            self._rooms[index] = room
        room[:, :, length : length + 1] = new
        return room[:, :, : length + 1]


@dataclass(frozen=True)
class _Entry:
    input_ids: tuple[int, ...]
    values: Tensor  # [2L, K, P, D]: keys and values, layer by layer


class PrefixCache:
    """A cache of at most `budget` bytes that drops the least recently used game first."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._bytes = 0
        self._games: OrderedDict[tuple[str, tuple[str, ...]], _Entry] = OrderedDict()

    def kept(self, row: Encoded) -> int:
        """Return how many of the row's first tokens are cached, because the row continues the cached prompt.

        At least one token is always left to run. None are cached if the row differs from the cached prompt.
        """
        entry = self._games.get((row.interaction_id, row.images))
        if entry is None:
            return 0
        limit = min(len(entry.input_ids), len(row.input_ids) - 1)
        # A row of an earlier turn, for one, does not continue the cached prompt.
        return limit if entry.input_ids[:limit] == row.input_ids[:limit] else 0

    def load(self, rows: Sequence[Encoded]) -> tuple[Cache, list[int]]:
        """Return keys and values for a batch, padded on the left, and how many tokens each row has there."""
        lengths = [self.kept(row) for row in rows]
        cache = growing_cache()
        longest = max(lengths)
        if longest:
            by_row = [self._games[(row.interaction_id, row.images)].values for row in rows]
            depth, heads, _, width = by_row[0].shape
            past = by_row[0].new_zeros(depth, len(rows), heads, longest, width)
            for index, (values, length) in enumerate(zip(by_row, lengths, strict=True)):
                past[:, index, :, longest - length :] = values[:, :, :length]
            for layer in range(depth // 2):
                cache.update(past[2 * layer], past[2 * layer + 1], layer)
        return cache, lengths

    def store(self, rows: Sequence[Encoded], cache: Cache, kept: Sequence[int]) -> None:
        """Store the keys and values that a pass over the rows computed.

        Args:
            cache: from `load`, with the new tokens appended, padded on the right.
            kept: from `load`.
        """
        if not self._budget:
            return
        layers: list[Any] = cache.layers
        tensors = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
        for index, (row, length) in enumerate(zip(rows, kept, strict=True)):
            # Padding is on both sides, so that the row's own tokens are contiguous.
            start = max(kept) - length
            stop = start + len(row.input_ids)
            key = (row.interaction_id, row.images)
            if key in self._games:
                self._bytes -= self._games.pop(key).values.nbytes
            values = torch.stack([tensor[index, :, start:stop] for tensor in tensors])
            self._games[key] = _Entry(row.input_ids, values)
            self._bytes += values.nbytes
        while self._bytes > self._budget:
            self._bytes -= self._games.popitem(last=False)[1].values.nbytes
