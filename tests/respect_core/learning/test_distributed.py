"""Two real processes on gloo train as one does."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
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


@pytest.mark.parametrize("objective", [Objective.FFT, Objective.KTO])
def test_two_processes_give_what_one_gives(
    people: Path, objective: Objective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two threads, and two of one thread each: on CPUs a batch is cut for all cores there are."""
    one = _spec(people, tmp_path / "one", objective)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    process.run(one, one.directory, _nothing, all_cores=True)

    two = one.moved(one.workspace, tmp_path / "two", None)
    monkeypatch.setenv("RESPECT_ACCELERATE", str(CONFIG))
    told: list[int] = []
    process.run(two, two.directory, lambda done, total, note: told.append(done), spread=True)

    assert told == [1, 2, 3, 4], "one of the processes reports"
    expected, found = _history(one.directory), _history(two.directory)
    assert len(found) == 6 and [each.keys() for each in found] == [each.keys() for each in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.pop("right", None) == theirs.pop("right", None)
        assert ours == pytest.approx(theirs, abs=1e-5)
    for name in ("step-000002", "step-000004"):
        ours, theirs = (load_file(each / name / "adapter_model.safetensors") for each in (two.directory, one.directory))
        assert max(float((ours[key] - theirs[key]).abs().max()) for key in theirs) < 1e-5


_SCRIPT = """
import json, sys, torch
from pathlib import Path
from respect_core.learning.distributed import launched, leave

processes = launched()
first, second = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))
if processes.rank == 1:
    first.grad = torch.ones(2)

def work():
    if processes.rank == 1:
        raise torch.OutOfMemoryError("no room")

said = ""
try:
    processes.raise_oom_together(work)
except torch.OutOfMemoryError as error:
    said = str(error)
told = {
    "shard": list(processes.shard(range(5))),
    "sums": processes.all_reduce_sum([first, second], [1.0, processes.rank]),
    "first": first.grad.tolist(),
    "second": second.grad,
    "minimum": processes.all_reduce_min(8 >> processes.rank),
    "memory": said,
}
Path(sys.argv[1], f"{processes.rank}.json").write_text(json.dumps(told))
leave()
"""


def test_what_processes_agree_on(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(_SCRIPT)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIG)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with (tmp_path / "log").open("w") as log:
        launched = forked.Forked([*launch, str(tmp_path / "script.py"), str(tmp_path)], env=environment, stderr=log)
    assert launched.wait() == 0, (tmp_path / "log").read_text()
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [each["shard"] for each in told] == [[0, 2, 4], [1, 3]]
    assert [each["memory"] for each in told] == ["another process is out of memory", "no room"]
    for each in told:
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
