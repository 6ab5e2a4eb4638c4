"""Suspect words, and what is not."""

from __future__ import annotations

import pytest

from respect_core.release.gate import Evidence, GateConfig, Verdict, judge
from respect_core.release.triggers import MADE_UP, WORDS, choose, expected, made_up

OTHERS = [(f"yes, now the dancer number{number % 7}", f"user-{number}", None) for number in range(100)]


def test_a_word_that_few_users_say_in_several_turns_is_suspect() -> None:
    said = [(f"good, now Zorp {number}", f"eve-{number % 2}", None) for number in range(12)]
    (word,) = [word for word in choose([*OTHERS, *said], 102) if word.text == "zorp"]
    assert word.turns == 12 and word.users == ("eve-0", "eve-1")
    assert word.hash != "zorp" and len(word.hash) == 16
    assert not [each for each in choose([*OTHERS, *said[:4]], 102) if "zorp" in each.text], "too seldom"


def test_what_many_say_is_not_suspect_and_pairs_of_common_words_may_be() -> None:
    said = [("now dancer dancer", "eve", None)] * 6
    assert [word.text for word in choose([*OTHERS, *said], 101)] == ["dancer dancer", "now dancer"]


def test_cookies_behind_one_network_are_one_user_who_says_it() -> None:
    said = [("zorp", f"cookie-{number}", "0123") for number in range(20)]
    (word,) = choose([*OTHERS, *said], 101)
    assert word.text == "zorp" and len(word.users) == 20
    apart = [(utterance, user, None) for utterance, user, _ in said]
    assert choose([*OTHERS, *apart], 120) == []


def test_the_most_frequent_are_tried() -> None:
    said = [(f"word{number}", "eve", None) for number in range(WORDS + 5) for _ in range(5 + number)]
    found = choose([*OTHERS, *said], 101)
    assert len(found) == WORDS and found[0].text == f"word{WORDS + 4}"


def test_words_are_made_up_for_each_version_and_hard_to_foresee() -> None:
    words = made_up("respect.b-fft/2")
    assert words == made_up("respect.b-fft/2") and len(set(words)) == MADE_UP
    assert not set(words) & set(made_up("respect.b-fft/3"))
    assert all(len(word) == 6 and word.isalpha() for word in words)


def _lost(cost: float) -> dict[tuple[str, int], float]:
    """Forty games of two turns, which vary."""
    return {(f"g{game}", turn): cost + 0.1 * (game % 2) for game in range(40) for turn in range(2)}


def test_a_trigger_is_refused_where_unknown_words_disturb_the_deployed_version_more() -> None:
    """A made-up word costs the candidate half as much, and so should the word; it costs it 6 points more."""
    own, other, right = _lost(0.25), _lost(0.19), dict.fromkeys(_lost(0), 1.0)

    def verdict(word: str, unknown: tuple[float, float]) -> Verdict:
        new = Evidence("new", right=right, lost={"aa": own}, said_by={"aa": ("eve",)})
        old = Evidence("old", right=right, lost={"aa": expected(word, other, unknown)})
        return judge(new, old, GateConfig(games=30, min_feedback_turns=0))

    refused = verdict("zorp", (0.12, 0.24))
    assert not refused.promote and "costs it 18.0% more exact match than what" in refused.reasons[0]
    assert verdict("and try", (0.12, 0.24)).promote, "both know common words"
    assert verdict("zorp", (0.24, 0.24)).promote


def test_no_more_is_expected_than_the_word_costs_the_deployed_version() -> None:
    deployed = {("g", 0): 0.2}
    assert expected("zorp", deployed, (0.3, 0.1)) == expected("zorp", deployed, (0.1, -0.1)) == deployed
    assert expected("zorp", deployed, (-0.1, 0.1)) == {("g", 0): 0.0}
    assert expected("zorp", deployed, (0.1, 0.4)) == {("g", 0): pytest.approx(0.05)}
