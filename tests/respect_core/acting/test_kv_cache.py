"""A cache with room behind its keys and values holds what transformers' own would."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from respect_core.acting.kv_cache import default_budget, growing_cache


def test_tokens_rows_and_columns_come_and_go_as_in_a_plain_cache() -> None:
    """Rows that leave and columns that are cut off leave no stale values behind."""
    generator = torch.Generator().manual_seed(0)
    ours: Any = growing_cache()
    plain: Any = DynamicCache()

    def append(rows: int, tokens: int) -> None:
        for layer in range(2):
            keys, values = torch.randn(2, rows, 3, tokens, 4, generator=generator)
            for mine, other in zip(ours.update(keys, values, layer), plain.update(keys, values, layer), strict=True):
                assert torch.equal(mine, other)

    append(5, 7)
    for _ in range(70):  # more than there is room for
        append(5, 1)
    for cache in (ours, plain):
        cache.batch_select_indices(torch.tensor([0, 2, 4]))
    append(3, 1)
    append(3, 4)
    for cache in (ours, plain):
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[:, :, 5:], layer.values[:, :, 5:]
    for _ in range(3):
        append(3, 1)
    assert ours.get_seq_length() == plain.get_seq_length() == 80


def test_a_token_is_written_where_there_is_room_for_it() -> None:
    cache: Any = growing_cache()
    cache.update(torch.zeros(2, 1, 9, 4), torch.zeros(2, 1, 9, 4), 0)
    places = set()
    for _ in range(20):
        keys, _ = cache.update(torch.ones(2, 1, 1, 4), torch.ones(2, 1, 1, 4), 0)
        places.add(keys.data_ptr())
    assert len(places) == 1


def test_a_gpu_with_room_keeps_more_than_two_gib_of_games(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 games of IDEFICS2-8B in play take 6 GB; with less, each turn would run every game's prompt from its start."""
    free = 0
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 0))
    assert default_budget(torch.device("cpu")) == default_budget(torch.device("cuda")) == 2 << 30
    free = 120 << 30
    assert default_budget(torch.device("cuda")) == 30 << 30
    assert default_budget(torch.device("cpu")) == 2 << 30
