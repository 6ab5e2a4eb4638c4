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

from respect_core.packing import Encoded


@dataclass(frozen=True)
class _Kept:
    input_ids: tuple[int, ...]
    values: Tensor  # [2, L, K, P, D]: keys, values


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
            _, layers, heads, _, width = known[0].shape
            past = known[0].new_zeros(2, layers, len(rows), heads, longest, width)
            for index, (values, length) in enumerate(zip(known, kept, strict=True)):
                past[:, :, index, :, longest - length :] = values[:, :, :, :length]
            for layer in range(layers):
                cache.update(past[0, layer], past[1, layer], layer)
        return cache, kept

    def store(self, rows: Sequence[Encoded], cache: DynamicCache, real: Tensor) -> None:
        """Keep what a pass over the rows has computed.

        Args:
            cache: with P + T tokens.
            real: [B, P + T], which of them belong to the row.
        """
        if not self._budget:
            return
        layers: list[Any] = cache.layers
        keys_values = [layer.keys for layer in layers], [layer.values for layer in layers]
        values = torch.stack([torch.stack(tensors) for tensors in keys_values])
        for index, row in enumerate(rows):
            key = (row.interaction_id, row.images)
            if key in self._games:
                self._bytes -= self._games.pop(key).values.nbytes
            self._games[key] = _Kept(row.input_ids, values[:, :, index][:, :, :, real[index]])
            self._bytes += self._games[key].values.nbytes
        while self._bytes > self._budget:
            self._bytes -= self._games.popitem(last=False)[1].values.nbytes
