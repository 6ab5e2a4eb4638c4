"""Pairs of a study's games, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from reports import deployment

from respect_core.measuring.evidence import gather
from tasks.reports.study_pairs import comparisons, of_study
from tasks.reports.study_record import Deployed, StudyRound

WON, LOST = [1, 4, 4, 4], [0, 10, 5, 10]


def _deployed(**games: list[int]) -> Deployed:
    return Deployed(games=list(games.values()), contexts=list(games))


def _study(seed: int) -> list[StudyRound]:
    """Of four contexts of round 0, control wins another; b-fft wins two of three, of which control wins one."""
    first = _deployed(a=WON, b=LOST, c=LOST, d=LOST)
    control = _deployed(x=WON, y=LOST, z=LOST, a=WON, b=WON, c=LOST, d=LOST)
    policies = {"b-fft": _deployed(y=WON, x=WON, z=LOST), "control": control, "hh": Deployed(games=[WON])}
    learned = StudyRound(round=1, policies={"b-fft": _deployed(q=WON)}, seconds={})
    return [
        StudyRound(round=0, policies={"seed": first}, seconds={}),
        learned,
        StudyRound(round=2, policies=policies, seconds={}),
    ]


def test_variants_are_compared_with_control_and_control_with_round_0() -> None:
    variant, control = comparisons([_study(0)])
    assert (variant.round, variant.policy, variant.other) == (2, "b-fft", "control")
    assert (variant.result.contexts, variant.result.wins, variant.result.losses) == (3, 1, 0)
    assert variant.result.success.value == pytest.approx(1 / 3)
    assert (control.round, control.policy, control.other) == (2, "control", "round 0")
    assert (control.result.contexts, control.result.wins, control.result.losses) == (4, 1, 0)
    assert control.result.success.value == pytest.approx(1 / 4)
    assert control.result.turns_per_game.value == pytest.approx(-6 / 4)


def test_pairs_of_several_studies_count_together() -> None:
    """Contexts of two studies may have the same names: each is paired within its study."""
    variant, control = comparisons([_study(0), _study(1)])
    assert (variant.result.contexts, control.result.contexts) == (6, 8)
    assert variant.result.success.value == pytest.approx(1 / 3)


def test_records_of_earlier_releases_have_no_pairs() -> None:
    first, _, last = _study(0)
    control = last.policies["control"].model_copy(update={"contexts": []})
    assert not list(comparisons([[first, last.model_copy(update={"policies": last.policies | {"control": control}})]]))


def test_a_report_has_what_the_study_measured_beyond_the_log(tmp_path: Path) -> None:
    evidence = gather(deployment(tmp_path / "store"), "run")
    assert of_study(evidence, tmp_path) == evidence
    folder = tmp_path / "study"
    folder.mkdir()
    policies = {"b-fft": _deployed(x=WON), "control": _deployed(x=WON, a=WON, b=LOST)}
    rounds = [
        StudyRound(round=0, policies={"seed": _deployed(a=WON, b=WON)}, seconds={}),
        StudyRound(round=1, policies=policies, seconds={}),
    ]
    for each in rounds:
        (folder / f"round-{each.round}.json").write_text(each.model_dump_json())
    measured = of_study(evidence, tmp_path)
    games = {(p, n): c.figures.games for p, by in measured.cells.items() for n, c in by.items() if c.figures}
    expected = {("b-fft", 0): 2, ("b-fft", 1): 1, ("control", 0): 2, ("control", 1): 3, ("hh", 1): 2}
    assert games == expected
    assert measured.comparisons[:-1] == evidence.comparisons
    assert measured.comparisons[-1].other == "round 0" and measured.comparisons[-1].result.contexts == 2
    assert of_study(evidence, tmp_path, up_to=0).comparisons == evidence.comparisons
