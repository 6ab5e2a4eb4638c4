"""Games in the log that went past the doors of this project: a round goes through, with them set aside and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from here import ByWord, record_workers
from samples import game, line, with_images
from small import smallest

from flows import parameters as parameters_module
from flows.demo import demo
from flows.parameters import DemoParameters
from respect_core.feedback import decoder
from respect_core.log import set_aside
from respect_core.log.log import append_logs
from respect_core.log.records import LoggedTurn
from respect_core.store import tables
from respect_core.variants import Variant
from tasks.round import long_games
from tasks.support.workspace import workspace

pytestmark = pytest.mark.timeout(600)


def _said(text: str) -> list[LoggedTurn]:
    """Ten turns of the same words."""
    actions = ["select A", "deselect A"] * 5
    return [LoggedTurn(utterance=text, action=action, probability=0.5) for action in actions]


def test_a_round_on_a_poisoned_log_goes_through(
    tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parameters_module, "named_profile", smallest)
    monkeypatch.setattr(decoder, "FeedbackDecoder", ByWord)
    record_workers(monkeypatch)
    place = workspace(tmp_path / "run")
    store = with_images(place.open())
    # 5,000 tokens, of 500 characters a turn; and 75,000, which the normal form of the text alone shows.
    append_logs(store, [game("marks", round=0, variant="seed", turns=_said("!" * 500))])
    ligatures = game("ligatures", round=0, variant="seed", turns=_said("\ufdfa" * 500))
    store.put("interactions/round=0/variant=seed/past-the-doors.jsonl", line(ligatures))

    summary: dict[str, Any] = demo(place, DemoParameters(games=3, replay=0, variants=[Variant.B_FFT]))

    assert summary["failed"] == {} and set(summary["variants"]) == {"b-fft"}
    assert (summary["games"], summary["set_aside"]) == (4, 2)
    (problem,) = set_aside.games(store).values()
    assert (problem.record, problem.field) == ("marks", "turns[0].utterance")
    assert "has 500 tokens, of which 128 are allowed" in problem.reason
    (lines,) = [store.read(key).splitlines() for key in store.keys("set_aside/") if "export-" in key]
    assert [json.loads(each)["field"] for each in lines] == ["turns[0].utterance"]
    for table in ("feedback", "training_sets"):
        assert "marks" not in tables.read_table(store, table)["interaction_id"].to_pylist()

    # Measured once: the next export needs no tokenizer.
    monkeypatch.setattr(long_games, "_ruler", lambda _: pytest.fail("measured again"))
    long_games.set_aside_long(store, smallest("tiny"), 0)
