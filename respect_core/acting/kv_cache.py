"""Keys and values of games in play: the prompt of a game only grows, so that each turn runs its new tokens alone.

Shapes: L layers, B rows, K key-value heads, P kept tokens, T new tokens, D head width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from respect_core.model.packing import Encoded


@dataclass(frozen=True)
class _Kept:
    input_ids: tuple[int, ...]
    values: Tensor  # [2L, K, P, D]: keys and values, layer by layer


class PrefixCache:
    """At most `budget` bytes; what was used longest ago goes first."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._bytes = 0
        self._games: OrderedDict[tuple[str, tuple[str, ...]], _Kept] = OrderedDict()

    def kept(self, row: Encoded) -> int:
        """How many of the row's first tokens need not be run: what it has in common with the game as it was last
        seen, if that goes beyond the images. At least one token is always left to run."""
        known = self._games.get((row.interaction_id, row.images))
        if known is None:
            return 0
        limit = min(len(known.input_ids), len(row.input_ids) - 1)
        if known.input_ids[:limit] == row.input_ids[:limit]:
            return limit
        # A turn of another kind than what was seen, e.g. an earlier one: run it afresh.
        return 0

    def load(self, rows: Sequence[Encoded]) -> tuple[DynamicCache, list[int]]:
        """Keys and values for a batch, padded on the left, and how many tokens each row has there."""
        kept = [self.kept(row) for row in rows]
        cache = DynamicCache()
        longest = max(kept)
        if longest:
            known = [self._games[(row.interaction_id, row.images)].values for row in rows]
            depth, heads, _, width = known[0].shape
            past = known[0].new_zeros(depth, len(rows), heads, longest, width)
            for index, (values, length) in enumerate(zip(known, kept, strict=True)):
                past[:, index, :, longest - length :] = values[:, :, :length]
            for layer in range(depth // 2):
                cache.update(past[2 * layer], past[2 * layer + 1], layer)
        return cache, kept

    def store(self, rows: Sequence[Encoded], cache: DynamicCache, kept: Sequence[int]) -> None:
        """Keep what a pass over the rows has computed.

        Args:
            cache: as `load` gave it, with the new tokens behind, padded on the right.
            kept: as `load` gave it.
        """
        if not self._budget:
            return
        layers: list[Any] = cache.layers
        tensors = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
        for index, (row, length) in enumerate(zip(rows, kept, strict=True)):
            # Padding lies on both sides: the row's own tokens are in one piece.
            start = max(kept) - length
            stop = start + len(row.input_ids)
            key = (row.interaction_id, row.images)
            if key in self._games:
                self._bytes -= self._games.pop(key).values.nbytes
            values = torch.stack([tensor[index, :, start:stop] for tensor in tensors])
            self._games[key] = _Kept(row.input_ids, values)
            self._bytes += values.nbytes
        while self._bytes > self._budget:
            self._bytes -= self._games.popitem(last=False)[1].values.nbytes
