"""A search over training settings, small, and interrupted: the embedded model, Prefect, MLflow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from here import ByWord, record_workers
from rich.console import Console
from small import smallest

from flows import parameters as parameters_module
from flows import search as search_module
from flows.parameters import SearchParameters
from flows.search import search
from respect_core.log.log import append_logs
from respect_core.scenarios.multiref import world
from respect_core.variants import Variant
from tasks.registry import registry
from tasks.round.search import show
from tasks.support.workspace import Workspace, workspace

pytestmark = pytest.mark.timeout(600)

PARAMETERS = SearchParameters(round=0, variants=[Variant.B_FFT], grid="near", limit=3)


@dataclass(frozen=True)
class Searched:
    """A search that was interrupted behind its first point: its place, its summary, the workers of both attempts."""

    place: Workspace
    summary: dict[str, Any]
    first: list[str]
    second: list[str]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Iterator[Searched]:
    place = workspace(tmp_path_factory.mktemp("search"))
    store = place.open()
    logs = world.human_games(store, 8, "search", seed="search", round=0)
    append_logs(store, [log.model_copy(update={"variant": "b-fft"}) for log in logs])
    record = search_module.record_point

    class Interrupted:
        calls = 0

        def submit(self, *args: Any) -> Any:
            self.calls += 1
            if self.calls > 1:
                raise KeyboardInterrupt
            record.submit(*args).wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parameters_module, "named_profile", smallest)
        patch.setattr("respect_core.feedback.decoder.FeedbackDecoder", ByWord)
        with pytest.MonkeyPatch.context() as attempt:
            first = record_workers(attempt)
            attempt.setattr(search_module, "record_point", Interrupted())
            with pytest.raises(KeyboardInterrupt):
                search(place, PARAMETERS)
        second = record_workers(patch)
        yield Searched(place, search(place, PARAMETERS), first, second)


def test_points_are_compared_the_best_first(searched: Searched, capsys: pytest.CaptureFixture[str]) -> None:
    points = searched.summary["points"]
    assert len(points) == 3 and not searched.summary["failed"]
    assert "as in the profile" in {point["name"] for point in points}
    ranking = [(-point["sampled_match"], -point["exact_match"]) for point in points]
    assert ranking == sorted(ranking) and all(point["validation_turns"] > 0 for point in points)
    file = searched.place.root / "search-near-b-fft-0.json"
    assert json.loads(file.read_text()) == searched.summary
    show(searched.summary, Console(width=120))
    assert "as in the profile" in capsys.readouterr().out


def test_mlflow_has_a_run_per_point_below_the_searchs_and_no_version(searched: Searched) -> None:
    mlflow, experiment = registry.client(searched.place), registry.experiment_id(searched.place)
    (parent,) = mlflow.search_runs([experiment], "attributes.run_name = 'search near b-fft round 0'")
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["val_exact_match"] == searched.summary["points"][0]["exact_match"]
    children = mlflow.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    done = {run.info.run_name: run for run in children if run.info.status == "FINISHED"}
    assert done.keys() == {point["name"] for point in searched.summary["points"]}
    for point in searched.summary["points"]:
        run = done[point["name"]]
        assert run.data.metrics["val_exact_match"] == point["exact_match"]
        assert run.data.metrics["illegal_actions"] == point["illegal_actions"]
    settings = {(run.data.params["learning_rate"], run.data.params["entropy_weight"]) for run in done.values()}
    assert len(settings) == 3
    assert [model.name for model in mlflow.search_registered_models()] == ["respect.seed"]


def test_finished_points_are_not_tried_again(searched: Searched, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = [each for each in searched.first + searched.second if each == "train 0 b-fft"]
    assert "train 0 b-fft" in searched.first and len(trained) == 3
    monkeypatch.setattr("tasks.compute.process.start", None)  # no worker can be started
    assert search(searched.place, PARAMETERS) == searched.summary


def test_a_larger_search_of_the_same_adds_its_points(searched: Searched, monkeypatch: pytest.MonkeyPatch) -> None:
    started = record_workers(monkeypatch)
    summary = search(searched.place, PARAMETERS.model_copy(update={"limit": 4}))
    assert started == ["train 0 b-fft"]
    assert {point["run_id"] for point in searched.summary["points"]} < {point["run_id"] for point in summary["points"]}


def test_a_point_that_fails_takes_no_other_down(
    searched: Searched, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = record_workers(monkeypatch)
    monkeypatch.setattr("respect_core.learning.trainer.make_optimizer", _no_memory)
    summary = search(searched.place, PARAMETERS.model_copy(update={"limit": 5, "max_steps": None}))
    assert started and len(summary["failed"]) == 1 and len(summary["points"]) == 4
    show(summary, Console(width=120))
    assert "failed" in capsys.readouterr().out


def _no_memory(*_: Any) -> None:
    raise ValueError("no such optimizer")


def test_what_cannot_be_searched_is_refused(prefect_server: None, searched: Searched, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no grid 'fine'"):
        search(searched.place, PARAMETERS.model_copy(update={"grid": "fine"}))
    with pytest.raises(ValueError, match="round 3 has no interactions"):
        search(searched.place, PARAMETERS.model_copy(update={"round": 3}))
