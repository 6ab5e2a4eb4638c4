"""What a round's candidates learned, by hand."""

from __future__ import annotations

import pytest
from reports import round_summary

from respect_core.reporting import candidates
from respect_core.reporting.candidates import replayed, rows, shown, wilson


def test_games_before_and_after_are_compared_by_pairs() -> None:
    """Of 40 contexts the seed policy wins ten, the candidate these and ten more; what one alone played is left out."""
    before = {f"c{number:02}": [number < 10, 5, 3, 5] for number in range(40)} | {"alone": [1, 1, 1, 1]}
    after = {f"c{number:02}": [number < 20, 4, 3, 4] for number in range(40)}
    found = replayed(before, after)
    assert found is not None and found["games"] == 40
    assert [found[name]["value"] for name in ("before", "after", "change")] == pytest.approx([0.25, 0.5, 0.25])
    low, high = found["change"]["ci95"]
    assert 0.1 < low < 0.15 and 0.35 < high < 0.4  # ten of forty pairs: 0.25 and 1.96 x 0.068
    assert high - low < found["after"]["ci95"][1] - found["after"]["ci95"][0]  # pairs tell more
    assert replayed(before, None) is None and replayed(None, None) is None


def test_an_interval_of_wilson() -> None:
    """None of ten: 1.96² / (10 + 1.96²) from above."""
    found = wilson(0, 10)
    assert found is not None and found["ci95"] == pytest.approx([0, 3.8416 / 13.8416], abs=1e-6)
    assert wilson(0, 0) is None and shown(wilson(0, 0), 0) == candidates.DASH


def test_few_games_say_that_they_are_too_few() -> None:
    share = {"value": 0.5, "ci95": [0.25, 0.75]}
    assert shown(share, 30) == "50.0% [25.0, 75.0]"
    assert shown(share, 12) == "50.0% [25.0, 75.0] too little (12)"
    assert shown(share, 12, signed=True) == "+50.0 [+25.0, +75.0] too little (12)"


def test_a_round_on_a_dozen_games_says_so_everywhere() -> None:
    summary = round_summary(games=12, positives=9)
    (fft, kto) = rows(summary)
    assert fft == (
        *("B-FFT", "9 / 0 / 7 too little (9)", "45.6% [40.1, 51.0]", "39.1%", "4 of 342"),
        *("25.0% [5.0, 50.0] too little (12)", "50.0% [25.0, 75.0] too little (12)"),
        *("+25.0 [-10.0, +60.0] too little (12)", "does not pass"),
    )
    assert kto[-1] == "passes"
    assert candidates.findings(summary) == [
        "Candidates of round 0: 2, exact match 45.6 to 48.0% and illegal actions in 4 of 342 validation turns.",
        "Of the same 12 games the seed policy won 25.0%, and they won 50.0%, which is too little to tell.",
        "The gate would promote B-KTO.",
    ]
    assert candidates.remarks(summary) == [
        "B-FFT would not pass the gate: it learned from 9 turns.",
        "B-KTO would pass the gate: all is well.",
        "B-KTO: it uses 0 negatives.",
        "T-RL failed: out of memory",
    ]


def test_too_few_games_leave_a_candidate_undecided() -> None:
    summary = round_summary()
    gate = {"promote": None, "reasons": ["92 games are too few"], "figures": {"games": 92}}
    summary["variants"]["b-fft"]["gate"] |= gate
    (fft, kto) = rows(summary)
    assert (fft[-1], kto[-1]) == ("undecided", "passes")
    assert candidates.findings(summary)[-1] == "The gate would promote B-KTO; too few games tell of B-FFT."
    assert candidates.remarks(summary)[0] == "B-FFT is left undecided by the gate: 92 games are too few."


@pytest.mark.parametrize("scenario", ["multiref", "home"])
def test_exact_match_is_shown_with_its_own_interval(scenario: str) -> None:
    """Replies that are commands have one right form, though they are free text."""
    summary = round_summary() | {"scenario": scenario}
    assert candidates.view(summary).criterion is None
    assert rows(summary)[0][2:5] == ("45.6% [40.1, 51.0]", "39.1%", "4 of 342")
    assert candidates.view(summary | {"scenario": "chat"}).criterion == "probability per token"


def test_the_control_is_no_candidate() -> None:
    summary = round_summary()
    with_control = {**summary["variants"], "shuffled": {**summary["variants"]["b-fft"], "val_sampled_match": 0.31}}
    found = candidates.findings(summary | {"variants": with_control})
    assert found[0] == candidates.findings(summary)[0] and "SHUFFLED" in found[1] and "31.0%" in found[1]
    assert rows(summary | {"variants": with_control})[-1][0] == "SHUFFLED"


def test_a_round_without_candidates_or_games_has_figures_all_the_same() -> None:
    summary = round_summary()
    for values in summary["variants"].values():
        values["played"] = values["gate"] = None
    (fft, _) = rows(summary)
    assert fft[2:] == ("45.6%", "39.1%", "4 of 342", *[candidates.DASH] * 4)
    assert len(candidates.findings(summary)) == 1
    assert candidates.findings(summary | {"variants": {}}) == ["No candidate came out of round 0."]


def test_guard_rails_are_beside_the_gates_limits_and_marked_beyond_them() -> None:
    summary = round_summary()
    assert candidates.rails(summary)[1] == []
    figures = {"length_ratio": 0.1, "refusals_added": 0.05, "distance": 1.5, "prompts": 24.0}
    summary["variants"]["b-fft"]["guard_rails"] = figures
    summary["variants"]["shuffled"] = summary["variants"]["b-kto"] | {"guard_rails": figures | {"length_ratio": 1.0}}
    columns, found = candidates.rails(summary)
    assert columns == ("guard rail", "limits", "B-FFT", "SHUFFLED")
    railed = {row[0]: row[1:] for row in found}
    assert railed["length ratio"] == ("0.25 to 4", "**0.10 beyond**", "1.00")
    assert railed["refusals added"] == ("at most 0.1", "0.05", "0.05")
    assert railed["distance"] == ("at most 1", "**1.50 beyond**", "**1.50 beyond**")
    assert railed["flips added"][1] == candidates.DASH
