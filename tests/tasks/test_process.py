"""Work in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from respect_core.variants import Objective, tiny
from tasks import process
from tasks.worker import TrainSpec
from tasks.workspace import workspace


def _spec(root: Path) -> TrainSpec:
    return TrainSpec(
        workspace=workspace(root),
        profile=tiny(),
        code_version="test",
        variant="b-fft",
        round=0,
        data_hash="none",
        training=tiny().training[Objective.FFT],
        seed=0,
        validation="no-such-set",
        init_adapter=None,
        directory=root / "out",
    )


def test_a_specification_survives_the_way_to_the_process(tmp_path: Path) -> None:
    spec = _spec(tmp_path)
    assert TrainSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_failing_worker_says_why_and_leaves_no_result(tmp_path: Path) -> None:
    with pytest.raises(process.WorkerFailed, match="no game set 'no-such-set'"):
        process.run(_spec(tmp_path), tmp_path / "out", lambda done, total, note: None)
    assert not (tmp_path / "out" / "result.json").exists()


def test_the_result_of_the_same_specification_is_not_computed_again(tmp_path: Path) -> None:
    spec, out = _spec(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / "spec.json").write_text(spec.model_dump_json(indent=2))
    (out / "result.json").write_text("kept")
    assert process.run(spec, out, lambda done, total, note: None).read_text() == "kept"

    changed = spec.model_copy(update={"data_hash": "other"})
    with pytest.raises(process.WorkerFailed):
        process.run(changed, out, lambda done, total, note: None)
    assert not (out / "result.json").exists()
