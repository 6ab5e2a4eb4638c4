"""The record of a study, the time left, and means over several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tasks.reports.study_record import Deployed, Started, StudyRound, finished_rounds, seconds_left
from tasks.reports.study_report import combine, results, show
from tasks.support import progress

WON, LOST = [1, 4, 4, 4], [0, 10, 5, 10]


def _decoder(precision: float) -> dict[str, Any]:
    return {"binary": {"positive": 10, "precision": precision, "recall": None, "decoder": "smollm2"}}


def _round(number: int, won: int, *, last: bool = False, precision: float = 0.9) -> StudyRound:
    games = [WON] * won + [LOST] * (10 - won)
    learned = {"train_turns": 9, "positives": 5 + won, "negatives_used": 0, "rehearsal_turns": 4}
    learning = {"decoder": _decoder(precision), "variants": {"b-fft": learned | _VALIDATED}}
    policies = {"seed" if number == 0 else "b-fft": Deployed(games=games, version="v", **_VALIDATED)}  # type: ignore[arg-type]
    if last:
        policies |= {"control": Deployed(games=games), "hh": Deployed(games=[WON])}
    return StudyRound(
        round=number,
        policies=policies,
        learning=None if last else learning,
        seconds={"total": 60.0 if not last else 20.0, "play": 10.0},
    )


_VALIDATED = {"val_exact_match": 0.5, "illegal_actions": 2}


def _started(base: str = "b", rate: float = 0.1, **parameters: Any) -> Started:
    given = {"rounds": 1, "variants": ["b-fft"], "games": 10, "profile": "tiny", "study_seed": 0} | parameters
    profile = {
        "name": "tiny",
        "scenario": "multiref",
        "seeds": [given["study_seed"]],
        "training": {"fft": {"learning_rate": rate}},
    }
    return Started(parameters=given, profile=profile, base=base, mlflow_run="r")


def _write(root: Path, name: str, rounds: list[StudyRound], **changes: Any) -> Path:
    folder, started = root / name / "study", _started(**changes)
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(started.model_dump_json())
    for each in rounds:
        (folder / f"round-{each.round}.json").write_text(each.model_dump_json())
    return root / name


def test_means_over_two_studies_by_hand(tmp_path: Path) -> None:
    one = _write(tmp_path, "one", [_round(0, 2, precision=0.8), _round(1, 6, last=True)])
    two = _write(tmp_path, "two", [_round(0, 4, precision=1.0), _round(1, 9, last=True)], study_seed=1)
    summary = combine([one, two], tmp_path / "mean")
    assert json.loads((tmp_path / "mean" / "summary.json").read_text()) == summary
    first, last = summary["rounds"]
    assert summary["study_seed"] == [0, 1]
    assert first["policies"]["b-fft"]["success"] == pytest.approx(0.3)
    assert first["policies"]["b-fft"]["games"] == 20
    assert last["policies"]["b-fft"]["success"] == pytest.approx(0.75)
    assert last["policies"]["b-fft"]["turns_per_game"] == pytest.approx((6.4 + 4.6) / 2)
    assert last["policies"]["hh"]["success"] == 1 and last["policies"]["hh"]["val_exact_match"] is None
    assert first["decoder"]["binary"]["precision"] == pytest.approx(0.9)
    assert first["decoder"]["binary"]["recall"] is None and first["decoder"]["binary"]["decoder"] == "smollm2"
    assert first["learned"]["b-fft"]["positives"] == 8
    assert last["decoder"] is None and last["learned"] is None
    assert summary["seconds"] == {"total": 80, "play": 20}
    assert "30.0 [" in (tmp_path / "mean" / "table-2-success.md").read_text()
    assert (tmp_path / "mean" / "figure-4.svg").is_file()


@pytest.mark.parametrize(
    ("rounds", "parameters", "message"),
    [
        (2, {}, "each study must have a seed of its own"),
        (2, {"study_seed": 1, "games": 20}, "differ in games, 20 and 10"),
        (2, {"study_seed": 1, "human_games": 5}, "differ in human_games"),
        (2, {"study_seed": 1, "rate": 0.2}, r"differ in profile\.training\.fft\.learning_rate, 0\.2 and 0\.1"),
        (2, {"study_seed": 1, "base": "another"}, "differ in base model's files"),
        (1, {"study_seed": 1}, "has finished 1 of its rounds"),
    ],
)
def test_what_cannot_be_averaged_is_refused(
    tmp_path: Path, rounds: int, parameters: dict[str, Any], message: str
) -> None:
    both = [_round(0, 2), _round(1, 6, last=True)]
    one = _write(tmp_path, "one", both)
    two = _write(tmp_path, "two", both[:rounds], **parameters)
    with pytest.raises(ValueError, match=message):
        combine([one, two], tmp_path / "mean")
    with pytest.raises(ValueError, match="no study in"):
        combine([one, tmp_path / "absent"], tmp_path / "mean")


def test_code_and_interruptions_are_told_of_all_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, last = _round(0, 2), _round(1, 6, last=True)  # records without attempts
    one = _write(tmp_path, "one", [first, last])
    once = first.model_copy(update={"attempts": ["0.1.0+a"]})
    twice = last.model_copy(update={"attempts": ["0.1.0+a", "0.1.0+b"]})
    two = _write(tmp_path, "two", [once, twice], study_seed=1)
    alike, mixed = combine([one], tmp_path / "alike"), combine([one, two], tmp_path / "mixed")
    assert (alike["code_versions"], alike["resumed"]) == ([None], False)
    assert (mixed["code_versions"], mixed["resumed"]) == ([None, "0.1.0+a", "0.1.0+b"], True)
    assert [each["resumed"] for each in mixed["rounds"]] == [False, True]
    show(mixed, Console(width=200))
    assert "different versions of the code: unknown, 0.1.0+a, 0.1.0+b" in capsys.readouterr().out


def test_a_record_without_attempts_is_read(tmp_path: Path) -> None:
    run = _write(tmp_path, "run", [])
    old = _round(0, 1).model_dump(mode="json", exclude={"attempts"})
    (run / "study" / "round-0.json").write_text(json.dumps(old))
    assert finished_rounds(run / "study") == [_round(0, 1)]


def test_after_round_0_the_systems_are_those_of_the_study() -> None:
    two = results([_started(variants=["b-kto", "b-fft"])], [[_round(0, 2)]])
    assert list(two) == ["b-fft", "b-kto"] and two["b-fft"] == two["b-kto"]


def test_rounds_are_read_in_order_of_number(tmp_path: Path) -> None:
    run = _write(tmp_path, "run", [_round(number, 1) for number in (10, 2, 0)])
    (run / "study" / "round-11.tmp").write_text("half a fi")
    assert [each.round for each in finished_rounds(run / "study")] == [0, 2, 10]


def test_time_left_is_that_of_the_rounds_before() -> None:
    done = [_round(0, 1), _round(1, 1), _round(2, 1)]
    assert seconds_left([], 6) is None
    assert seconds_left(done, 6) == 3 * 60 + 10  # rounds 3 to 5, and the play of round 6
    assert seconds_left([*done, _round(3, 1, last=True)], 3) == 0
    assert (progress.about(None), progress.about(190), progress.about(4000)) == (
        "",
        ", about 3 min left",
        ", about 1 h 7 min left",
    )
