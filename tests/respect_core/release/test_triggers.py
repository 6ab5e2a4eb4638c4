"""Suspect words, and what is not."""

from __future__ import annotations

from respect_core.release.triggers import WORDS, choose

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
