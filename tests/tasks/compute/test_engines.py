"""A worker trains with the engine that its specification names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from text_bases import small_llama
from trainings import training_of

from respect_core.profiles import chat, home
from respect_core.training_data import curated
from tasks.compute import worker
from tasks.games.people import prepare_game_sets
from tasks.support.workspace import workspace


def test_a_worker_trains_with_trl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = replace(home().seed_training.on("trl"), max_steps=2, checkpoint_every=1, batch_turns=4)
    profile = replace(
        home(), base=small_llama(), lora=chat().lora, seed_games=3, validation_games=2, seed_training=short
    )
    place = workspace(tmp_path)
    prepare_game_sets.fn(place, profile, "validation")
    spec = training_of(place, profile, tmp_path / "work")
    packed = spec.model_copy(update={"training": short.on("packed")})
    assert spec.key() != packed.key()
    told = {}
    for name, each in (("trl", spec), ("packed", packed)):
        each = each.model_copy(update={"directory": tmp_path / name})
        result = worker.train(each)
        told[name] = capsys.readouterr().out.count('{"done"')
        assert [point["step"] for point in result["checkpoints"]] == [1, 2] and result["tokens"] > 0
        assert all(point["n_turns"] > 0 and 0 < point["sampled_match"] < 1 for point in result["checkpoints"])
        assert (each.directory / "step-000002" / "adapter_config.json").is_file()
        assert (each.directory / "processor").is_dir() and (each.directory / "history.jsonl").is_file()
    assert told == {"trl": 2, "packed": 2}
    tried = worker.train(spec.model_copy(update={"only": [curated.read(place.open(), curated.D0)[0].interaction_id]}))
    assert tried == {}
