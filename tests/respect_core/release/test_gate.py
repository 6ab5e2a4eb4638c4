"""The gate, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from respect_core.release.gate import Evidence, GateConfig, Rails, difference, gate, judge

LOOSE = GateConfig(margin=0.0, min_games=2, min_feedback_turns=0, illegal_cap=0.5, user_share_cap=0.5, resamples=4000)


def _policy(name: str, *games: str, **more: object) -> Evidence:
    """One string a game, one letter a turn: r where the action was right."""
    right = {(f"g{number}", turn): each == "r" for number, game in enumerate(games) for turn, each in enumerate(game)}
    evidence = Evidence(name, right=right)
    return replace(evidence, **more)  # type: ignore[arg-type]


def test_the_same_loss_in_every_game_is_certain() -> None:
    """Each game lost one of its two turns: every resample has -1/2."""
    deployed = _policy("old", *["rr"] * 10)
    candidate = _policy("new", *["r."] * 10)
    found = difference(candidate, deployed, LOOSE)
    assert (found.value, found.low, found.high) == (-0.5, -0.5, -0.5)
    verdict = judge(candidate, deployed, LOOSE)
    assert not verdict.promote
    assert verdict.reasons == (
        "exact match 50.0% on 20 turns of 10 games against 100.0% of old: -50.0%, with 95% confidence at most -50.0%, "
        "beyond the allowed loss of 0.0%",
    )
    assert verdict.figures["difference"] == -0.5 and verdict.figures["deployed_exact_match"] == 1.0
    assert judge(candidate, deployed, replace(LOOSE, margin=0.5)).promote


def test_free_replies_are_never_called_illegal() -> None:
    verdict = judge(_policy("new", *["rr"] * 10), _policy("old", *["r."] * 10), replace(LOOSE, criterion="other"))
    assert verdict.promote and "illegal_actions" not in verdict.figures
    assert not any("illegal" in reason for reason in verdict.reasons)


def test_the_bootstrap_draws_games() -> None:
    """Two games of one turn, one of them lost: the mean of two draws is -1, -1/2 or 0 with odds 1:2:1.

    From above, -1/2 has three quarters of the resamples at or below it: it is the bound at 60%, and 0 that at 95%.
    """
    deployed, candidate = _policy("old", "r", "r"), _policy("new", ".", "r")
    assert difference(candidate, deployed, LOOSE).high == 0.0
    assert judge(candidate, deployed, LOOSE).promote
    surer = replace(LOOSE, confidence=0.6)
    assert difference(candidate, deployed, surer).high == -0.5
    assert not judge(candidate, deployed, surer).promote
    assert judge(candidate, deployed, replace(surer, margin=0.5)).promote


def test_turns_of_a_game_are_drawn_together() -> None:
    """One game of twelve turns lost whole, eleven of one turn kept: every third resample is without the loss."""
    deployed = _policy("old", "r" * 12, *["r"] * 11)
    candidate = _policy("new", "." * 12, *["r"] * 11)
    found = difference(candidate, deployed, LOOSE)
    assert found.value == pytest.approx(-12 / 23)
    assert found.high == 0.0
    assert judge(candidate, deployed, LOOSE).promote


def test_a_policy_as_good_passes_with_what_was_found() -> None:
    deployed = _policy("old", *["r."] * 10)
    verdict = judge(_policy("new", *["r."] * 10, learned={"a": 5, "b": 5}), deployed, replace(LOOSE, min_games=10))
    assert verdict.promote
    assert [sentence.split(",")[0] for sentence in verdict.reasons] == [
        "exact match 50.0% on 20 turns of 10 games against 50.0% of old: +0.0%",
        "0 illegal actions on 20 validation turns (0.0%)",
        "user b gave 5 of the 10 turns with feedback that it learned from (50.0%)",
    ]


@pytest.mark.parametrize(("illegal", "passes"), [(0, True), (1, True), (2, False)])
def test_illegal_actions_must_stay_under_the_cap(illegal: int, passes: bool) -> None:
    """2 of 20 turns are the cap of 10%, and not under it."""
    games = ["rr"] * 10
    candidate = _policy("new", *games, illegal_actions=illegal)
    verdict = judge(candidate, _policy("old", *games), replace(LOOSE, illegal_cap=0.1))
    assert verdict.promote is passes
    if not passes:
        assert verdict.reasons == ("2 illegal actions on 20 validation turns (10.0%), not under 10.0%",)


def test_one_user_may_not_give_more_than_the_cap() -> None:
    games = ["rr"] * 10
    learned = {"mallory": 3, "alice": 1, "bob": 1}
    verdict = judge(_policy("new", *games, learned=learned), _policy("old", *games), LOOSE)
    assert not verdict.promote
    assert verdict.reasons == (
        "user mallory gave 3 of the 5 turns with feedback that it learned from (60.0%), over the cap of 50.0%",
    )
    wider = replace(LOOSE, user_share_cap=0.6)
    assert judge(_policy("new", *games, learned=learned), _policy("old", *games), wider).promote


def test_all_that_speaks_against_a_candidate_is_said() -> None:
    candidate = _policy("new", *[".."] * 10, illegal_actions=20, learned={"mallory": 1})
    assert len(judge(candidate, _policy("old", *["rr"] * 10), LOOSE).reasons) == 3


@pytest.mark.parametrize(
    ("learned", "reason"),
    [
        ({}, "it learned from 0 turns with feedback, of 0 users, which is too little; the gate asks for 100 turns"),
        (
            {f"user-{number}": 1 for number in range(5)},
            "it learned from 5 turns with feedback, of 5 users, which is too little; the gate asks for 100 turns",
        ),
    ],
)
def test_what_learned_from_next_to_nobody_is_refused(learned: dict[str, int], reason: str) -> None:
    games = ["rr"] * 10
    verdict = judge(_policy("new", *games, learned=learned), _policy("old", *games), GateConfig())
    assert not verdict.promote and verdict.reasons == (reason,)
    enough = {f"user-{number}": 20 for number in range(5)}
    assert judge(_policy("new", *games, learned=enough), _policy("old", *games), GateConfig()).promote


def test_the_deployed_weights_under_another_name_are_refused() -> None:
    games, learned = ["rr"] * 10, {f"user-{number}": 20 for number in range(5)}
    deployed = _policy("old", *games, adapter_hash="a")
    verdict = judge(_policy("new", *games, learned=learned, adapter_hash="a"), deployed, GateConfig())
    assert not verdict.promote
    assert verdict.reasons == ("new has the weights of old, which is deployed: it learned nothing since",)
    assert judge(_policy("new", *games, learned=learned, adapter_hash="b"), deployed, GateConfig()).promote


def test_a_guard_rail_refuses_by_name_figure_and_limit() -> None:
    games = ["rr"] * 10
    figures = {"prompts": 24, "length": 40.0, "length_ratio": 5.2, "flips_added": 0.1, "distance": float("nan")}
    verdict = judge(_policy("new", *games, guard_rails=figures), _policy("old", *games), LOOSE)
    assert verdict.reasons == (
        "guard rail length_ratio: 5.20, which is outside 0.25 to 4",
        "guard rail distance: nan, which is outside -1 to 1",
    )
    assert verdict.figures["guard.flips_added"] == 0.1 and "guard.prompts" not in verdict.figures
    wide = replace(LOOSE, rails=Rails(length_ratio=(0.1, 10.0)))
    within = judge(_policy("new", *games, guard_rails=figures | {"distance": 0.2}), _policy("old", *games), wide)
    assert within.promote and within.reasons[-1] == (
        "within the guard rails: length_ratio 5.20, distance 0.20, flips_added 0.10"
    )


def test_few_games_tell_nothing() -> None:
    games = ["r" * 100] * 9
    verdict = judge(_policy("new", *games), _policy("old", *games), replace(GateConfig(), min_feedback_turns=0))
    assert verdict.reasons == ("9 validation games are too few to compare policies; the gate asks for 10",)


def test_an_adapter_that_does_not_act_is_refused_and_a_deployed_one_is_an_error() -> None:
    good, broken = _policy("good", *["r"] * 10), Evidence("broken", unusable="no weights")
    assert judge(broken, good, LOOSE).reasons == ("broken is not fit for use: no weights",)
    with pytest.raises(ValueError, match=r"broken is deployed and does not act.*no weights.*roll it back"):
        judge(good, broken, LOOSE)


def test_policies_are_compared_on_the_same_turns_only() -> None:
    with pytest.raises(ValueError, match="new was validated on 10 turns and old on 11"):
        judge(_policy("new", *["r"] * 10), _policy("old", *["r"] * 11), LOOSE)


def test_every_profile_has_a_gate() -> None:
    assert gate("idefics2-8b") == GateConfig() and GateConfig().illegal_cap == 0.01
    assert gate("tiny") == replace(GateConfig(), illegal_cap=0.1)
