"""Tables 6 to 9 against counts by hand."""

from __future__ import annotations

import pytest

from respect_core.measuring.language import RESET, TRY_AGAIN, language, occurrences, tokens


@pytest.mark.parametrize(
    ("utterance", "expected"),
    [
        ("The boat, please!", "the boat please"),
        ("Don't select it", "do select it"),  # n't is not alphanumeric
        ("it's the dog's", "it the dog"),
        ("cannot", "can not"),
        ("left-facing house w/ 2 roofs", "house 2 roofs"),  # one token each, with a sign in it
        ("No. The other one.", "no the other one"),  # the first sentence's period is cut off
        ("no. the other one... not 3.5", "no the other one not"),
        ('(dog)[cat]"boat"', "dog cat boat"),
        ("café ½", "café ½"),
        ("?!", ""),
    ],
)
def test_tokens_are_nltks_that_are_alphanumeric(utterance: str, expected: str) -> None:
    assert " ".join(tokens(utterance)) == expected


def test_language_by_hand() -> None:
    games = [["The boat", "no, the OTHER one", "try again"], ["reset"], []]
    found = language(games)
    assert found.utterances == 4
    assert found.vocabulary == 8  # the boat no other one try again reset
    assert found.utterance_length.value == (2 + 4 + 2 + 1) / 4
    assert (found.utterance_length.low, found.utterance_length.high) == (1, pytest.approx(8 / 3))  # of one game alone
    assert (found.resets, found.try_agains) == (1, 2)


@pytest.mark.parametrize(
    ("utterance", "expected"),
    [
        ("Deselect ALL", 1),
        ("deselect all over again", 2),  # `deselect all` and `all over`
        ("start over, start over", 2),
        ("deselect everything and start all over", 2),  # `start all over` is not `start over`
        ("unselect all", 1),
        ("remove everything, drop all, clear all", 3),
        ("a preset", 1),  # as a substring
        ("select all", 0),
        ("de select all", 0),
    ],
)
def test_phrases_are_counted_as_substrings_and_each_by_itself(utterance: str, expected: int) -> None:
    assert occurrences([utterance], RESET) == expected


def test_the_papers_phrases() -> None:
    assert len(RESET) == 15
    assert all(occurrences([phrase.upper()], RESET) == 1 for phrase in RESET)
    assert all(occurrences([f"no {phrase} now"], TRY_AGAIN) == 1 for phrase in TRY_AGAIN)
    assert occurrences(["try", "again"], TRY_AGAIN) == 0  # not from one utterance into the next


def test_no_utterances_are_an_error() -> None:
    with pytest.raises(ValueError, match="no utterances"):
        language([[], []])
