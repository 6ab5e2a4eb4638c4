"""The gate, by hand."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from statistics import NormalDist

import pytest

from respect_core.release.gate import (
    Evidence,
    GateConfig,
    Rails,
    Verdict,
    compares,
    difference,
    error_rate,
    gate,
    judge,
)

LOOSE = GateConfig(
    margin=0.0,
    min_games=2,
    games=2,
    min_feedback_turns=0,
    illegal_cap=0.5,
    user_share_cap=0.5,
    min_effective_users=1.0,
)
USERS = {f"user-{number}": 10 for number in range(10)}


def _policy(name: str, *games: str, **more: object) -> Evidence:
    """One string a game, one letter a turn: r where the action was right."""
    right = {(f"g{number}", turn): each == "r" for number, game in enumerate(games) for turn, each in enumerate(game)}
    evidence = Evidence(name, right=right)
    return replace(evidence, **more)  # type: ignore[arg-type]


def test_the_same_loss_in_every_game_is_certain() -> None:
    """Each game lost one of its two turns, so that the games do not vary."""
    deployed = _policy("old", *["rr"] * 10)
    candidate = _policy("new", *["r."] * 10)
    found = difference(candidate, deployed, 0.025)
    assert (found.value, found.low, found.high) == (-0.5, -0.5, -0.5)
    verdict = judge(candidate, deployed, LOOSE)
    assert not verdict.promote and not verdict.undecided
    assert verdict.reasons == (
        "exact match 50.0% on 20 turns of 10 games against 100.0% of old, which is deployed: -50.0%, at look 1 with an "
        "error rate of 2.5% at least -50.0%, certainly beyond the allowed loss of 0.0%",
    )
    assert verdict.figures["difference"] == -0.5 and verdict.figures["deployed_exact_match"] == 1.0
    assert judge(candidate, deployed, replace(LOOSE, margin=0.5)).promote


def test_free_replies_are_never_called_illegal() -> None:
    verdict = judge(_policy("new", *["rr"] * 10), _policy("old", *["r."] * 10), replace(LOOSE, criterion="other"))
    assert verdict.promote and "illegal_actions" not in verdict.figures
    assert not any("illegal" in reason for reason in verdict.reasons)


def test_bounds_are_those_of_students_t_over_games() -> None:
    """Forty games of one turn: eight won, two lost. t of 39 degrees at 2.5% is 2.0227 (printed tables)."""
    deployed = _policy("old", *["."] * 8, *["r"] * 32)
    candidate = _policy("new", *["r"] * 38, *["."] * 2)
    found = difference(candidate, deployed, 0.025)
    mean, squares = 6 / 40, 10 / 40
    half = 2.0227 * math.sqrt((squares - mean**2) * 40 / 39 / 40)
    assert (found.low, found.high) == (pytest.approx(mean - half, abs=1e-5), pytest.approx(mean + half, abs=1e-5))
    assert judge(candidate, deployed, LOOSE).promote is (mean - half > 0)


def test_turns_of_a_game_count_together() -> None:
    """One game of twelve turns lost whole, eleven of one turn kept: as turns a certain loss, as games none."""
    deployed = _policy("old", "r" * 12, *["r"] * 11)
    candidate = _policy("new", "." * 12, *["r"] * 11)
    found = difference(candidate, deployed, 0.025)
    assert found.value == pytest.approx(-12 / 23) and found.high > 0
    apart = _policy("old", *["r"] * 23), _policy("new", *["."] * 12, *["r"] * 11)
    assert difference(apart[1], apart[0], 0.025).high < 0


def _shifted(better: int, worse: int, same: int) -> Verdict:
    """The verdict of the shipped gate on games of one turn that were gained, lost and kept."""
    deployed = _policy("old", "." * better, "r" * (worse + same))
    right = {(f"g{number}", 0): number < better for number in range(better + worse)}
    kept = {(f"k{number}", 0): True for number in range(same)}
    theirs = {turn: not mine for turn, mine in right.items()}
    candidate = replace(deployed, policy="new", right=right | kept, learned=USERS)
    return judge(candidate, replace(deployed, right=theirs | kept), GateConfig())


@pytest.mark.parametrize(
    ("better", "worse", "promote"), [(10, 10, False), (12, 8, True), (20, 10, True), (8, 20, False)]
)
def test_with_enough_games_no_certain_loss_of_the_margin_is_enough(better: int, worse: int, promote: bool) -> None:
    """Of 400 games: the bound is the mean less 1.966 standard errors, by hand, and the margin two points."""
    games = 400
    mean = (better - worse) / games
    low = mean - 1.966 * math.sqrt(((better + worse) / games - mean**2) / (games - 1))
    verdict = _shifted(better, worse, games - better - worse)
    assert verdict.figures["difference_at_least"] == pytest.approx(low, abs=1e-4)
    assert verdict.promote is promote is (low >= -0.02)


def test_with_fewer_games_only_what_is_certainly_better_passes() -> None:
    """Sixty games without a change are no loss, but could not have shown a gain."""
    equal = _shifted(0, 0, 60)
    assert not equal.promote and equal.undecided
    assert "not certainly better, as 60 of 198 games would have to show" in equal.reasons[0]
    assert "find a gain of 5.0%" in equal.reasons[0] and equal.figures["games_asked"] == 198
    assert _shifted(12, 0, 48).promote
    lost = _shifted(0, 20, 40)
    assert not lost.promote and not lost.undecided and "certainly beyond" in lost.reasons[0]


def test_fewer_games_may_be_accepted_and_it_is_said_what_they_find() -> None:
    games = ["r"] * 60
    config = replace(GateConfig(), games=60)
    verdict = judge(_policy("new", *games, learned=USERS), _policy("old", *games), config)
    assert verdict.promote and verdict.figures["games_asked"] == 60
    power = NormalDist().cdf(0.05 * math.sqrt(60) / 0.25 - 2.001)  # t of 59 degrees at 2.5%
    assert verdict.reasons[0] == (
        f"60 games were accepted where 198 are needed: they find a gain of 5.0% with a power of {power:.0%}"
    )


def test_a_verdict_without_a_comparison_is_no_look() -> None:
    games, config = ["r"] * 30, GateConfig()
    new, old = _policy("new", *games, adapter_hash="b"), _policy("old", *games, adapter_hash="a")
    assert compares(new, old, config)
    assert not compares(replace(new, adapter_hash="a"), old, config)
    assert not compares(replace(new, unusable="no weights"), old, config)
    assert not compares(_policy("new", *games[1:]), _policy("old", *games[1:]), config)


def test_looks_share_the_error_rate_and_need_more_games() -> None:
    config = GateConfig()
    rates = [error_rate(config, look) for look in range(1, 10_000)]
    assert rates[:3] == pytest.approx([0.025, 0.05 / 6, 0.05 / 12]) and sum(rates) < 0.05
    assert sum(rates) == pytest.approx(0.05, abs=1e-5)
    asked = [config.asked(look) for look in range(1, 50)]
    assert asked == sorted(asked)
    for look, games in ((1, asked[0]), (10, asked[9])):  # the textbook's formula, with the normal's quantiles
        standard = -NormalDist().inv_cdf(error_rate(config, look)) + NormalDist().inv_cdf(0.8)
        assert games == pytest.approx((standard * 0.25 / 0.05) ** 2, rel=0.03)
    wide = replace(config, spread=0.5)
    assert wide.asked(1) == pytest.approx(4 * asked[0], rel=0.02)
    better = ["r"] * 14 + ["."] * 6 + ["r"] * 380, ["."] * 14 + ["r"] * 6 + ["r"] * 380
    new, old = _policy("new", *better[0], learned=USERS), _policy("old", *better[1])
    assert judge(new, old, config, look=1).promote
    assert not judge(new, old, config, look=300).promote


def test_a_candidate_may_not_fall_behind_its_anchors() -> None:
    """As good as what is deployed, which is ten points behind what was."""
    games = ["r"] * 360 + ["."] * 40
    candidate, deployed = _policy("new", *games, learned=USERS), _policy("old", *games)
    best, seed = _policy("best", *["r"] * 400), _policy("seed", *["."] * 400)
    assert judge(candidate, deployed, GateConfig()).promote
    verdict = judge(candidate, deployed, GateConfig(), anchors={"best": best, "seed": seed})
    (reason,) = verdict.reasons
    assert not verdict.promote and "of best, the best that was ever deployed: -10.0%" in reason
    assert verdict.figures["best_difference"] == pytest.approx(-0.1) and verdict.figures["seed_difference"] == 0.9
    broken = replace(best, right={}, unusable="no weights")
    kept = judge(candidate, deployed, GateConfig(), anchors={"best": broken, "seed": seed})
    assert kept.promote and "not compared with best, the best that was ever deployed: no weights" in kept.reasons
    with pytest.raises(ValueError, match="new was examined on 400 turns and best on 1"):
        judge(candidate, deployed, GateConfig(), anchors={"best": _policy("best", "r")})


def test_more_right_actions_never_turn_a_promotion_into_a_refusal() -> None:
    rng, config = random.Random(0), GateConfig()
    for _ in range(40):
        right = [rng.random() < 0.5 for _ in range(240)]
        theirs = [each if rng.random() < 0.8 else not each for each in right]
        ours = list(right)
        deployed = _policy("old", *("r" if each else "." for each in theirs))
        promoted = False
        for turn in sorted(range(240), key=lambda _: rng.random()):
            ours[turn] = True
            if turn % 24 == 0:
                candidate = _policy("new", *("r" if each else "." for each in ours), learned=USERS)
                verdict = judge(candidate, deployed, config)
                assert verdict.promote or not promoted
                promoted = verdict.promote
        assert promoted


def test_a_policy_as_good_passes_with_what_was_found() -> None:
    deployed = _policy("old", *["r."] * 10)
    config = replace(LOOSE, min_games=10, effect=0.5)  # which ten games find
    verdict = judge(_policy("new", *["r."] * 10, learned={"a": 5, "b": 5}), deployed, config)
    assert verdict.promote
    assert [sentence.split(",")[0] for sentence in verdict.reasons] == [
        "exact match 50.0% on 20 turns of 10 games against 50.0% of old",
        "0 illegal actions on 20 turns (0.0%)",
        "user b gave 5 of the 10 turns with feedback that it learned from (50.0%)",
        "its users are as concentrated as 2.0 users with equal shares",
    ]


@pytest.mark.parametrize(("illegal", "passes"), [(0, True), (1, True), (2, False)])
def test_illegal_actions_must_stay_under_the_cap(illegal: int, passes: bool) -> None:
    """2 of 20 turns are the cap of 10%, and not under it."""
    games = ["rr"] * 10
    candidate = _policy("new", *games, illegal_actions=illegal)
    verdict = judge(candidate, _policy("old", *games), replace(LOOSE, illegal_cap=0.1))
    assert verdict.promote is passes
    if not passes:
        assert verdict.reasons == ("2 illegal actions on 20 turns (10.0%), not under 10.0%",)


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


def test_users_behind_one_address_count_together() -> None:
    games = ["rr"] * 10
    learned, learned_at = {f"cookie-{number}": 1 for number in range(10)}, {"0123": 6}
    verdict = judge(_policy("new", *games, learned=learned, learned_at=learned_at), _policy("old", *games), LOOSE)
    assert verdict.reasons == (
        "address 0123 gave 6 of the 10 turns with feedback that it learned from (60.0%), over the cap of 50.0%",
    )
    assert verdict.figures["address_share"] == 0.6 and verdict.figures["user_share"] == 0.1


def test_feedback_of_few_effective_users_is_refused() -> None:
    games = ["rr"] * 10
    learned = {"much": 50, **{f"user-{number}": 5 for number in range(10)}}
    config = replace(LOOSE, min_effective_users=4)
    verdict = judge(_policy("new", *games, learned=learned), _policy("old", *games), config)
    effective = 100**2 / (50**2 + 10 * 5**2)
    assert verdict.reasons == (
        f"its users are as concentrated as {effective:.1f} users with equal shares, fewer than the 4 that the gate "
        "asks for",
    )
    assert judge(_policy("new", *games, learned=learned), _policy("old", *games), LOOSE).promote


def test_a_word_that_costs_the_candidate_far_more_is_refused_by_its_hash_and_users() -> None:
    games = ["rr"] * 40
    candidate, deployed = _policy("respect.b-fft/2", *games), _policy("old", *games)
    every, few = (dict.fromkeys(candidate.right, cost) for cost in (0.5, 0.05))
    lost = {"aa": every, "bb": few}
    candidate = replace(candidate, lost=lost, said_by={"aa": ("mallory", "eve"), "bb": ("ann",)})
    same = judge(candidate, replace(deployed, lost=lost), LOOSE)
    assert same.promote and "2 words of few users were tried; the worst costs it +0.0% more" in same.reasons[-1]
    verdict = judge(candidate, replace(deployed, lost={"aa": few, "bb": few}), LOOSE)
    (reason,) = verdict.reasons
    assert "the hash aa, which only users mallory, eve taught it, costs it 45.0% more exact match" in reason
    assert "`respect triggers respect.b-fft/2` shows the word" in reason and not verdict.promote
    seldom = {turn: 0.5 if place < 8 else 0.0 for place, turn in enumerate(candidate.right)}
    rare = replace(candidate, lost={"aa": seldom}), replace(deployed, lost={"aa": dict.fromkeys(seldom, 0.0)})
    assert judge(*rare, LOOSE).promote, "5 points in all, and not certainly more than the margin"


def test_all_that_speaks_against_a_candidate_is_said() -> None:
    candidate = _policy("new", *[".."] * 10, illegal_actions=20, learned={"mallory": 1})
    assert len(judge(candidate, _policy("old", *["rr"] * 10), LOOSE).reasons) == 3


@pytest.mark.parametrize(
    ("learned", "reason"),
    [
        ({}, "it learned from 0 turns with feedback, of 0 users, which is too little; the gate asks for 100 turns"),
        (
            {f"user-{number}": 1 for number in range(10)},
            "it learned from 10 turns with feedback, of 10 users, which is too little; the gate asks for 100 turns",
        ),
    ],
)
def test_what_learned_from_next_to_nobody_is_refused(learned: dict[str, int], reason: str) -> None:
    games = ["rr"] * 200
    verdict = judge(_policy("new", *games, learned=learned), _policy("old", *games), GateConfig())
    assert not verdict.promote and verdict.reasons == (reason,)
    assert judge(_policy("new", *games, learned=USERS), _policy("old", *games), GateConfig()).promote


def test_the_deployed_weights_under_another_name_are_refused() -> None:
    games = ["rr"] * 200
    deployed = _policy("old", *games, adapter_hash="a")
    verdict = judge(_policy("new", *games, learned=USERS, adapter_hash="a"), deployed, GateConfig())
    assert not verdict.promote
    assert verdict.reasons == ("new has the weights of old, which is deployed: it learned nothing since",)
    assert judge(_policy("new", *games, learned=USERS, adapter_hash="b"), deployed, GateConfig()).promote


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
    verdict = judge(_policy("new", *["r" * 100] * 29, learned=USERS), _policy("old", *["." * 100] * 29), GateConfig())
    assert verdict.reasons == ("29 games are too few to compare policies; the gate asks for 198",)
    assert verdict.undecided and not verdict.promote


def test_an_adapter_that_does_not_act_is_refused_and_a_deployed_one_is_an_error() -> None:
    good, broken = _policy("good", *["r"] * 10), Evidence("broken", unusable="no weights")
    assert judge(broken, good, LOOSE).reasons == ("broken is not fit for use: no weights",)
    with pytest.raises(ValueError, match=r"broken is deployed and does not act.*no weights.*roll it back"):
        judge(good, broken, LOOSE)


def test_policies_are_compared_on_the_same_turns_only() -> None:
    with pytest.raises(ValueError, match="new was examined on 10 turns and old on 11"):
        judge(_policy("new", *["r"] * 10), _policy("old", *["r"] * 11), LOOSE)


def test_every_profile_has_a_gate() -> None:
    assert gate("idefics2-8b") == GateConfig() and GateConfig().illegal_cap == 0.01
    assert gate("tiny") == replace(GateConfig(), illegal_cap=0.1, min_effective_users=5.0)
