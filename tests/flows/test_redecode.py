"""Old turns decoded again: beside the old labels, and after an interruption only what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from here import ByWord
from prefect import flow
from samples import contents, game, with_images

from respect_core.feedback import decoder
from respect_core.feedback.shards import SHARDS, decode_partition
from respect_core.log.export import export
from respect_core.log.log import append_logs
from respect_core.store import tables
from respect_core.store.manifests import Partition
from tasks.round import redecode as module
from tasks.round.redecode import beside, redecode_round
from tasks.support.workspace import Workspace, workspace


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """Nine games of three turns, exported and decoded."""
    made = workspace(tmp_path)
    store = with_images(made.open())
    append_logs(store, [game(f"g{number}") for number in range(9)])
    export(store, 5)
    decode_partition(store, Partition(5, "b-fft"), ByWord(decoder.smollm2()), {"decoder_model": "old"})
    return made


@flow
def redecoding(place: Workspace) -> Any:
    return redecode_round(place, module.configure("smollm2", "the decoder's own", 5.0), 5, "strict", turns_per_shard=6)


def test_an_interrupted_redecode_goes_on_behind_its_last_shard(
    prefect_server: None, place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five shards of two games each, the last of one; killed in the third."""
    calls: list[int] = []

    class Counting(ByWord):
        def decode(self, rows: Any, *args: Any, **options: Any) -> list[dict[str, Any]]:
            calls.append(len(rows))
            if len(calls) == 3:
                raise KeyboardInterrupt
            return super().decode(rows, *args, **options)

    monkeypatch.setattr(module, "FeedbackDecoder", Counting)
    store, target = place.open(), beside(place, "strict")
    old = contents(store, "feedback/")
    with pytest.raises(KeyboardInterrupt):
        redecoding(place)
    assert len(target.keys(SHARDS)) == 2 and not target.keys("feedback/")

    (binary, _) = redecoding(place)
    assert calls == [6, 6, 6, 6, 6, 3]
    assert binary["1 to -1"] == 9 and binary["-1 to -1"] == 9
    assert tables.read_table(target, "feedback").num_rows == 2 * 18
    assert not target.keys(SHARDS) and contents(store, "feedback/") == old
