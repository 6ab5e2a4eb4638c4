"""The log in the store, and what is said about records that cannot be used."""

from __future__ import annotations

from typing import Any

import pytest
from broken_records import BROKEN, TURN
from samples import contents, game, line

from respect_core.log.log import RecordError, append_logs, find_logs, parse_record, read_logs
from respect_core.store.base import Store
from respect_core.store.manifests import Partition


def test_append_is_idempotent(store: Store) -> None:
    batch = [game("g1"), game("g2")]
    key = append_logs(store, iter(batch))
    assert key.startswith("interactions/round=5/variant=b-fft/") and key.endswith(".jsonl")
    before = contents(store)
    assert append_logs(store, batch) == key
    assert contents(store) == before
    assert append_logs(store, [game("g3")]) != key
    assert list(read_logs(store, key)) == batch


def test_a_named_batch_is_the_one_that_came_first(store: Store) -> None:
    assert find_logs(store, Partition(5, "b-fft"), "play-1") is None
    key = append_logs(store, [game("g1")], "play-1")
    assert key == "interactions/round=5/variant=b-fft/play-1.jsonl" == find_logs(store, Partition(5, "b-fft"), "play-1")
    assert append_logs(store, [game("g2")], "play-1") == key
    assert list(read_logs(store, key)) == [game("g1")]


def test_batches_that_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="no interactions to append"):
        append_logs(store, [])
    with pytest.raises(ValueError, match="g2: round 6, variant 'b-fft' in a batch of"):
        append_logs(store, [game("g1"), game("g2", round=6)])
    with pytest.raises(ValueError, match="cannot name a partition"):
        append_logs(store, [game(variant="../up")])
    assert store.keys() == []


@pytest.mark.parametrize(("data", "field", "reason"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_broken_records(data: bytes, field: str, reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        parse_record(data)
    assert caught.value.field == field
    assert reason in caught.value.reason
    assert caught.value.remedy


def test_problems_read_well() -> None:
    changes: dict[str, Any] = {"turns": [TURN | {"action": "select K"}]}
    with pytest.raises(RecordError) as caught:
        parse_record(line(**changes))
    text = str(caught.value.at("interactions/x.jsonl", "line 7"))
    assert text.startswith("interactions/x.jsonl, line 7, field turns[0].action: ") and "; correct the field" in text
