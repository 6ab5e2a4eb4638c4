"""Two real processes on gloo train as one does."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from paths import REPOSITORY
from safetensors.torch import load_file
from trainings import training

from respect_core.profiles import tiny
from respect_core.variants import Objective
from tasks.compute import process
from tasks.compute.specs import TrainSpec

CONFIG = REPOSITORY / "deployments" / "accelerate" / "ddp.yaml"

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two processes need two cores"),
]


def _spec(people: Path, root: Path, objective: Objective) -> TrainSpec:
    """Four passes in a step, the last of them smaller."""
    spec = training(people, root, steps=4, checkpoint_every=2)
    config = replace(
        tiny().training[objective],
        max_steps=4,
        checkpoint_every=2,
        batch_turns=20,
        micro_batch_interactions=2,
        from_previous_adapter=False,
    )
    return spec.model_copy(update={"training": config})


def _nothing(done: int, total: int, note: str) -> None:
    """Nobody watches."""


def _history(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]


@dataclass(frozen=True)
class Trained:
    """Specifications of what one process trained, by objective, and of the same by two; and what these two told."""

    one: dict[Objective, TrainSpec]
    two: dict[Objective, TrainSpec]
    done: list[int]
    told: list[dict[str, Any]]


@pytest.fixture(scope="module")
def trained(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One process of two threads, and two of one thread each: on CPUs a batch is cut for all cores there are.

    The two are launched once, as for a round, and train both objectives.
    """
    folder, objectives = tmp_path_factory.mktemp("trained"), (Objective.FFT, Objective.KTO)
    one = {each: _spec(people, folder / f"one-{each}", each) for each in objectives}
    two = {each: one[each].moved(one[each].workspace, folder / f"two-{each}", None) for each in objectives}
    two[Objective.FFT].directory.mkdir(parents=True)
    (first := two[Objective.FFT].directory / "spec.json").write_text(two[Objective.FFT].model_dump_json())
    command, done = process._command, list[int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "2")
        for spec in one.values():
            process.run(spec, spec.directory, _nothing, all_cores=True)
        patch.setenv("RESPECT_ACCELERATE", str(CONFIG))
        pair = ["tests.pair", str(folder), str(first)]
        patch.setattr(process, "_command", lambda processes: [*command(processes)[:-1], *pair])
        last = two[Objective.KTO]
        process.run(last, last.directory, lambda count, total, note: done.append(count), spread=True)
    return Trained(one, two, done, [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)])


@pytest.mark.parametrize("objective", [Objective.FFT, Objective.KTO])
def test_two_processes_give_what_one_gives(trained: Trained, objective: Objective) -> None:
    one, two = trained.one[objective].directory, trained.two[objective].directory
    expected, found = _history(one), _history(two)
    assert len(found) == 6 and [each.keys() for each in found] == [each.keys() for each in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.pop("right", None) == theirs.pop("right", None)
        assert ours == pytest.approx(theirs, abs=1e-5)
    for name in ("step-000002", "step-000004"):
        ours, theirs = (load_file(each / name / "adapter_model.safetensors") for each in (two, one))
        assert max(float((ours[key] - theirs[key]).abs().max()) for key in theirs) < 1e-5


def test_one_of_the_processes_reports(trained: Trained) -> None:
    assert trained.done == [1, 2, 3, 4] * 2


def test_what_processes_agree_on(trained: Trained) -> None:
    assert [each["shard"] for each in trained.told] == [[0, 2, 4], [1, 3]]
    assert [each["memory"] for each in trained.told] == ["another process is out of memory", "no room"]
    for each in trained.told:
        assert (each["sums"], each["first"], each["second"], each["minimum"]) == ([2.0, 1.0], [1.0, 1.0], None, 4)


def test_more_processes_than_cores_are_refused(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = tmp_path / "many.yaml"
    many.write_text(CONFIG.read_text().replace("num_processes: 2", "num_processes: 4096"))
    monkeypatch.setenv("RESPECT_ACCELERATE", str(many))
    spec = _spec(people, tmp_path / "one", Objective.FFT)
    with pytest.raises(ValueError, match=r"4096 processes.*lower num_processes"):
        process.run(spec, spec.directory, _nothing, spread=True)
    monkeypatch.setenv("RESPECT_ACCELERATE", "nowhere.yaml")
    with pytest.raises(ValueError, match=r"nowhere\.yaml: no such file"):
        process.run(spec, spec.directory, _nothing, spread=True)
