"""A whole study, small, and interrupted: the embedded model, simulated speakers, Prefect, MLflow.

The feedback decoder is here without its model, which test_round.py and test_study_killed.py run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from here import ByWord, record_workers
from prefect.exceptions import CancelledRun
from small import smallest

from flows import parameters as parameters_module
from flows import study as study_module
from flows.evaluate import evaluate
from flows.parameters import DemoParameters, EvaluateParameters, StudyParameters
from flows.study import study
from respect_core.log.log import read_logs
from respect_core.log.records import InteractionLog
from respect_core.measuring.labels import right_turns
from respect_core.store import tables
from respect_core.training_data import curated
from respect_core.variants import Objective, Variant
from respect_core.versions import code_version
from tasks.registry import registry
from tasks.reports.study_record import finished_rounds
from tasks.support.workspace import Workspace, workspace

pytestmark = pytest.mark.timeout(1200)  # the study itself is in the set-up of the first test

PARAMETERS = StudyParameters(rounds=1, variants=[Variant.B_FFT], games=10, anchor_games=14, human_games=4, study_seed=3)


@dataclass(frozen=True)
class Played:
    """A study that was interrupted once: its workspace, its summary, and the workers of both attempts."""

    place: Workspace
    summary: dict[str, Any]
    first: list[str]
    second: list[str]


@pytest.fixture(scope="module")
def smallest_study() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parameters_module, "named_profile", smallest)
        patch.setattr("respect_core.feedback.decoder.FeedbackDecoder", ByWord)
        yield


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, prefect_server: None, smallest_study: None) -> Played:
    """Interrupted when round 0 had been played and learned from, but not recorded.

    The result of its play is lost too, as if the worker had died between logging its games and saying so.
    """
    place = workspace(tmp_path_factory.mktemp("study"))
    with pytest.MonkeyPatch.context() as patch:
        first = record_workers(patch)
        patch.setattr(study_module.record, "finish_round", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            study(place, PARAMETERS)
    (place.scratch / "round=0" / "seed" / "play" / "result.json").unlink()
    with pytest.MonkeyPatch.context() as patch:
        second = record_workers(patch)
        summary = study(place, PARAMETERS)
    return Played(place, summary, first, second)


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def _logs(place: Workspace, round: int, variant: str) -> list[InteractionLog]:
    store = place.open()
    (key,) = store.keys(f"interactions/round={round}/variant={variant}/")  # one object: nothing is there twice
    return list(read_logs(store, key))


def test_what_was_done_before_the_interruption_is_not_done_again(played: Played) -> None:
    assert sorted(played.first[1:3]) == ["play 0 seed"] * 2  # what is logged, and what only measures
    assert [*played.first[:1], *played.first[3:]] == ["train 0 seed", "decode None None", "train 0 b-fft"]
    # The first found its games.
    assert sorted(played.second) == ["play 0 seed", "play 1 b-fft", "play 1 control", "play 1 control"]
    assert len(_logs(played.place, 0, "seed")) == 10
    aside = played.place.open().keys("set_aside/")
    assert not [key for key in aside if "/measured-" not in key]  # whose lengths are known


def test_the_summary_has_its_documented_shape(played: Played) -> None:
    summary = played.summary
    assert json.loads((played.place.root / "summary.json").read_text()) == summary
    assert (summary["profile"], summary["study_seed"]) == ("tiny", 3)
    assert [each["round"] for each in summary["rounds"]] == [0, 1]
    first, last = summary["rounds"]
    assert set(first["policies"]) == {"b-fft", "control"}  # round 0 is shared among systems
    assert first["policies"]["b-fft"] == first["policies"]["control"]
    assert set(last["policies"]) == {"b-fft", "control", "hh"}
    for policy in last["policies"].values():
        assert policy["ci95"][0] <= policy["success"] <= policy["ci95"][1]
        assert 1 <= policy["turns_per_game"] <= 10
        assert 0 <= policy["click_accuracy"] <= 1
    assert last["policies"]["hh"]["success"] == 1
    assert last["policies"]["control"]["version"] == first["policies"]["control"]["version"]
    assert last["policies"]["b-fft"]["version"] == "respect.b-fft/1"
    assert first["decoder"]["binary"]["positive"] > 0 and last["decoder"] is None
    assert first["learned"]["b-fft"]["positives"] > 0 and last["learned"] is None
    assert summary["seconds"]["total"] >= summary["seconds"]["play"] > 0
    assert ([each["resumed"] for each in summary["rounds"]], summary["resumed"]) == ([True, False], True)
    assert summary["code_versions"] == [code_version()]


def test_figures_are_those_of_the_log(played: Played) -> None:
    logs = _logs(played.place, 1, "b-fft")
    figures = played.summary["rounds"][1]["policies"]["b-fft"]
    assert figures["success"] == sum(log.outcome.success for log in logs if log.outcome) / 10
    assert figures["turns_per_game"] == sum(len(log.turns) for log in logs) / 10


def test_the_seed_policy_is_measured_on_more_games_than_are_learned_from(played: Played) -> None:
    first, last = (each["policies"] for each in played.summary["rounds"])
    assert (first["b-fft"]["games"], last["b-fft"]["games"], last["control"]["games"]) == (14, 10, 10 + 14)
    for round, policy, games in ((0, "seed", 14), (1, "control", 24)):
        assert len(_logs(played.place, round, policy)) == 10  # the others are no part of any log
        record = finished_rounds(played.place.root / "study")[round].policies[policy]
        assert len(set(record.contexts)) == len(record.games) == games


def test_differences_are_those_of_pairs(played: Played) -> None:
    before, after = finished_rounds(played.place.root / "study")
    games = {
        name: dict(zip(each.contexts, each.games, strict=True))
        for name, each in [("seed", before.policies["seed"]), *after.policies.items()]
        if each.contexts
    }
    policies = played.summary["rounds"][1]["policies"]
    for policy, other, over, contexts in (("b-fft", "control", "control", 10), ("control", "seed", "round 0", 14)):
        both = games[policy].keys() & games[other].keys()
        pair = policies[policy]["paired"]
        assert (pair["over"], pair["contexts"], len(both)) == (over, contexts, contexts)
        assert pair["success"] == pytest.approx(
            sum(games[policy][each][0] - games[other][each][0] for each in both) / contexts
        )
        assert pair["ci95"][0] <= pair["success"] <= pair["ci95"][1]
    assert policies["hh"]["paired"] is None
    assert all(each["paired"] is None for each in played.summary["rounds"][0]["policies"].values())
    root = played.place.root
    assert "| 1 | CONTROL over ROUND 0 | 14 |" in (root / "pairs.md").read_text()
    assert "CONTROL over ROUND 0" in (root / "report" / "index.html").read_text()


def test_the_reports_figures_are_the_summarys(played: Played) -> None:
    reported = json.loads((played.place.root / "report" / "report.json").read_text())["values"]
    success = {(each["row"], each["column"]): each["value"] for each in reported if each["table"] == 2}
    for each in played.summary["rounds"]:
        for policy, values in each["policies"].items():
            assert success[policy, str(each["round"])] == values["success"]


def test_contexts_of_a_round_are_stratified_by_their_number_of_targets(played: Played) -> None:
    targets = [len(log.outcome.targets) for log in _logs(played.place, 1, "b-fft") if log.outcome]
    assert sorted(targets.count(each) for each in (3, 4, 5)) == [3, 3, 4]


def test_all_play_the_same_fresh_contexts_with_the_same_speakers(played: Played) -> None:
    mine, control, people = (_logs(played.place, 1, variant) for variant in ("b-fft", "control", "hh"))
    contexts = {tuple(log.context) for log in mine}
    assert len(contexts) == 10
    assert {tuple(log.context) for log in control} == contexts >= {tuple(log.context) for log in people}
    assert not contexts & {tuple(log.context) for log in _logs(played.place, 0, "seed")}
    assert [log.context for log in mine] != [log.context for log in control]  # each in an order of its own
    opening = [{tuple(log.context): log.turns[0].utterance for log in logs} for logs in (mine, control, people)]
    assert opening[0] == opening[1] and opening[2].items() <= opening[0].items()
    actions = [{tuple(log.context): [turn.action for turn in log.turns] for log in logs} for logs in (mine, control)]
    assert actions[0] != actions[1]


def test_the_round_learned_from_its_own_log_alone(played: Played) -> None:
    store = played.place.open()
    table = tables.read_table(store, "training_sets", [0], ["b-fft"], ["interaction_id", "source"]).to_pylist()
    learned = {row["interaction_id"] for row in table if row["source"] == "round"}
    assert learned <= {log.interaction_id for log in _logs(played.place, 0, "seed")}
    assert not store.keys("training_sets/round=1/")


def test_tables_and_figure_are_files_and_mlflow_has_the_curves(played: Played) -> None:
    root = played.place.root
    table = (root / "table-2-success.md").read_text()
    assert "| HH | - | 100.0 [100.0, 100.0] |" in table
    assert (root / "table-4-click-accuracy.csv").read_text().startswith("policy,0,0 low,0 high,1,")
    assert "B-FFT" in (root / "figure-4.svg").read_text()

    mlflow = registry.client(played.place)
    run_id = json.loads((root / "study" / "study.json").read_text())["mlflow_run"]
    run = mlflow.get_run(run_id)
    assert (run.info.status, run.data.params["games"]) == ("FINISHED", "10")
    artifacts = {each.path for each in mlflow.list_artifacts(run_id)}
    assert artifacts >= {"summary.json", "figure-4.svg", "table-3-turns-per-game.csv", "report"}
    assert "report/index.html" in {each.path for each in mlflow.list_artifacts(run_id, "report")}
    assert 'id="table-2"' in (root / "report" / "index.html").read_text()
    curve = mlflow.get_metric_history(registry.child_run(played.place, run_id, "b-fft"), "success")
    expected = [each["policies"]["b-fft"]["success"] for each in played.summary["rounds"]]
    assert [(point.step, point.value) for point in curve] == list(enumerate(expected))
    children = mlflow.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{run_id}'")
    assert "round 0" in {child.info.run_name for child in children}


def test_a_finished_study_is_only_reported_again(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    started = record_workers(monkeypatch)
    assert study(played.place, PARAMETERS) == played.summary
    assert not started


@pytest.fixture
def other_profile(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Somebody changed the recipe between two attempts."""

    def changed(name: str) -> Any:
        profile = smallest(name)
        fft = replace(profile.training[Objective.FFT], learning_rate=0.5)
        return replace(profile, training=profile.training | {Objective.FFT: fft})

    monkeypatch.setattr(parameters_module, "named_profile", changed)
    yield


def test_another_study_in_its_place_is_refused_by_field(played: Played) -> None:
    with pytest.raises(ValueError, match=r"started with games = 10, now it is 12.*--run"):
        study(played.place, PARAMETERS.model_copy(update={"games": 12}))


def test_a_study_of_an_earlier_release_is_refused_by_field(played: Played, tmp_path: Path) -> None:
    place, folder = workspace(tmp_path), tmp_path / "study"
    folder.mkdir()
    known = json.loads((played.place.root / "study" / "study.json").read_text())
    del known["parameters"]["anchor_games"]
    (folder / "study.json").write_text(json.dumps(known))
    with pytest.raises(ValueError, match=r"a release that did not have anchor_games.*another --run"):
        study(place, PARAMETERS)


def test_another_recipe_is_refused_by_field(played: Played, other_profile: None) -> None:
    with pytest.raises(ValueError, match=r"profile\.training\.fft\.learning_rate = .*now it is 0\.5"):
        study(played.place, PARAMETERS)


def test_games_of_something_else_are_not_learned_from(played: Played, tmp_path: Path) -> None:
    place = workspace(tmp_path)
    place.open().put("interactions/round=0/variant=b-fft/games.jsonl", b"{}\n")
    with pytest.raises(ValueError, match=r"interactions that are not this study's.*--run"):
        study(place, PARAMETERS)


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("no set"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (CancelledRun(), "KILLED")],
)
def test_an_interrupted_study_is_open_in_mlflow_only_while_it_goes_on(
    prefect_server: None,
    smallest_study: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: str,
) -> None:
    place = workspace(tmp_path)
    found: list[str] = []

    def fails(*_: Any) -> None:
        (run,) = registry.client(place).search_runs([registry.experiment_id(place)])
        found.append(run.info.status)
        raise error

    monkeypatch.setattr(study_module, "seed_policy", fails)
    for _ in range(2):
        with pytest.raises(type(error)):
            study(place, PARAMETERS)
        (run,) = registry.client(place).search_runs([registry.experiment_id(place)])
        assert run.info.status == status
    assert found == ["RUNNING", "RUNNING"]


def test_study_seeds_share_no_training_seed() -> None:
    def seeds(study_seed: int) -> tuple[int, ...]:
        parameters = StudyParameters(study_seed=study_seed, seeds=3)
        return parameters.of_round(1).resolved_profile().seeds

    assert (seeds(0), seeds(1), seeds(2)) == ((0, 1, 2), (3, 4, 5), (6, 7, 8))
    demo = DemoParameters(study_seed=4)
    assert demo.first_round().resolved_profile().seeds == (4,)


def test_policies_are_evaluated_on_a_set_that_nobody_trained_on(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_workers(monkeypatch)
    store = played.place.open()
    curated.write(store, "people", _logs(played.place, 1, "hh"))
    left = registry.start_run(played.place, "evaluation on people")  # by an evaluation that was killed
    result = evaluate(played.place, EvaluateParameters(game_set="people"))
    assert registry.client(played.place).get_run(left).info.status == "KILLED"
    assert json.loads((played.place.root / "evaluation-people.json").read_text()) == result
    assert (result["round"], result["games"], set(result["policies"])) == (0, 4, {"seed", "b-fft"})
    assert result["turns"] == len(right_turns(curated.read(store, "people")))
    for values in (*result["policies"].values(), *result["chance"].values()):
        assert values["ci95"][0] <= values["exact_match"] <= values["ci95"][1]
    chance = result["chance"]
    assert 0 < chance["single click"]["exact_match"] <= 0.1 < chance["kind and number"]["exact_match"] < 0.3
    difference = result["policies"]["b-fft"]["exact_match"] - result["policies"]["seed"]["exact_match"]
    assert result["policies"]["b-fft"]["over_seed"]["exact_match"] == pytest.approx(difference)


def test_games_that_were_learned_from_are_not_evaluated_on(played: Played) -> None:
    curated.write(played.place.open(), "learned", _logs(played.place, 0, "seed"))
    with pytest.raises(ValueError, match=r"b-fft/1 learned from \d+ games of 'learned', such as .*: name another set"):
        evaluate(played.place, EvaluateParameters(game_set="learned"))
    with pytest.raises(ValueError, match=r"checkpoint of respect\.seed/1 was chosen by 3 games of 'validation'"):
        evaluate(played.place, EvaluateParameters(game_set="validation"))
    with pytest.raises(ValueError, match="no variants of round 4"):
        evaluate(played.place, EvaluateParameters(game_set="people", round=4))
