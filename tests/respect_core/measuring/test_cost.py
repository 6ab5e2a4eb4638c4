"""What a round cost, from the store and from what a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from respect_core.measuring.cost import Cost, read_cost
from respect_core.schemas import FEEDBACK_SCHEMA
from respect_core.store.base import Store
from respect_core.store.open import open_store
from respect_core.store.tables import write_partition


def decoded(store: Store, round: int, variant: str, turns: int, tokens: int | None = None) -> None:
    """So many turns of one game, each by both decoders."""
    rows = [
        {
            **{"interaction_id": "g1", "round": round, "variant": variant, "turn": turn, "decoder": decoder},
            **{"label": 1, "score": 0.5, "low_margin": False, "decoder_model": "m", "decoder_revision": "r"},
            **{"prompt_hash": "p", "thresholds": "{}"},
        }
        for turn in range(turns)
        for decoder in ("binary", "ternary")
    ]
    table = pa.Table.from_pylist(rows, FEEDBACK_SCHEMA)
    write_partition(store, "feedback", round, variant, table, counts={"tokens": tokens} if tokens else None)


def trained(run: Path, round: int, variant: str, seed: int, **result: object) -> None:
    folder = run / "work" / f"round={round}" / variant / f"seed={seed}"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def place(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def test_by_hand(place: Store, tmp_path: Path) -> None:
    decoded(place, 2, "b-fft", 3, tokens=70)
    decoded(place, 2, "t-rl", 1, tokens=20)
    decoded(place, 3, "b-fft", 5, tokens=1000)
    trained(tmp_path, 2, "b-fft", 0, tokens=100, seconds=1.5, device="cuda")
    trained(tmp_path, 2, "b-fft", 1, tokens=200, seconds=2.5, device="cuda")
    trained(tmp_path, 2, "t-rl", 0, tokens=50, seconds=8.0, device="cpu")
    summary = {"rounds": [{"round": 1, "seconds": {"decode": 9.0}}, {"round": 2, "seconds": {"decode": 4.5}}]}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert read_cost(place, tmp_path, 2) == Cost(2, 3, 90, 4.5, 3, 350, {"cuda": 4.0, "cpu": 8.0})


def test_what_was_not_recorded_is_none(place: Store, tmp_path: Path) -> None:
    assert read_cost(place, None, 0) == Cost(0, None, None, None, None, None, None)
    decoded(place, 0, "b-fft", 3, tokens=70)
    decoded(place, 0, "t-rl", 1)  # nor what decoding took
    trained(tmp_path, 0, "b-fft", 0, tokens=100, seconds=1.0)  # earlier releases did not write the device
    trained(tmp_path, 0, "b-fft", 1, seconds=2.0)
    (tmp_path / "summary.json").write_text(json.dumps({"round": 0, "seconds": {"decode": None}}))
    assert read_cost(place, tmp_path, 0) == Cost(0, 3, None, None, 2, None, {"unknown": 3.0})


def test_a_broken_file_is_named(place: Store, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json: not JSON"):
        read_cost(place, tmp_path, 0)
    (tmp_path / "summary.json").write_text("[]")
    with pytest.raises(ValueError, match=r"summary\.json: holds a list"):
        read_cost(place, tmp_path, 0)
