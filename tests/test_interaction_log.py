"""The log in the store, and what is said about records that cannot be used."""

from __future__ import annotations

from typing import Any

import pytest
from samples import contents, game, line

from respect_core.interaction_log import RecordError, append_logs, find_logs, parse_record, read_logs
from respect_core.manifests import Partition
from respect_core.store import Store


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


TURN = {"utterance": "a boat", "action": "select A"}

BROKEN: list[tuple[str, bytes, str, str]] = [
    ("truncated", line()[:-20], "", "not JSON"),
    ("not JSON", b"<html>\n", "", "not JSON"),
    ("deep", b"[" * 100_000, "", "not JSON"),
    ("a list", b"[1]\n", "", "JSON list, not an object"),
    ("UTF-8", line().replace(b"boat", b"b\xff\xfet"), "", "invalid UTF-8 at byte"),
    ("wrong type", line(round="5"), "round", "valid integer, not '5'"),
    ("nested wrong type", line(turns=[TURN | {"probability": "high"}]), "turns[0].probability", "valid number"),
    ("probability", line(turns=[TURN | {"probability": 1.5}]), "turns[0].probability", "less than or equal to 1"),
    ("absent field", line(user=None), "user", "required"),
    ("surplus field", line(target="image-A"), "target", "not permitted"),
    ("version", line(schema_version=2), "schema_version", "version 2 is not known"),
    ("version type", line(schema_version="1"), "schema_version", "version '1' is not known"),
    ("letter", line(turns=[TURN | {"action": "select K"}]), "turns[0].action", "not in the action language"),
    ("illegal", line(turns=[TURN | {"action": "deselect A"}]), "turns[0].action", "not selected in state"),
    ("canonical", line(turns=[TURN | {"action": "select B A"}]), "turns[0].action", "write 'select A B'"),
    ("twice", line(turns=[TURN, TURN]), "turns[1].action", "already selected"),
    ("empty utterance", line(turns=[TURN | {"utterance": ""}]), "turns[0].utterance", "at least 1 character"),
    ("blank utterance", line(turns=[TURN | {"utterance": " "}]), "turns[0].utterance", "blank"),
    ("no turns", line(turns=[]), "turns", "at least 1 item"),
    ("time", line(started_at="yesterday"), "started_at", "Invalid isoformat"),
    ("targets", line(outcome={"targets": ["x"], "success": True}), "outcome.targets", "not in context"),
    ("context", line(context=["a", "a"]), "context", "names an image twice"),
]


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
