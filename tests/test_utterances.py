"""Text that users write: normalised once and for all, and never longer than its bound."""

# ruff: noqa: RUF001 - characters that look like others are what this is about

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from respect_core.utterances import LONGEST_GROWTH, normalised

# Any text, and text of those characters that the rules are about.
ODD = "eA\u00e9 \t\n\r\x00\x07\x1c\x85\u00ad\u034f\u0301\u0323\u0345\u0488\u05d0\u0627\u102d\u1037\u1100\u1161\u11a8"
ODD += "\u09c7\u09be\u200b\u200c\u200d\u200e\u2028\u202e\u2066\u20dd\u3164\ufb01\ufdfa\ufe0f\ufeff\uff21"
ODD += "\U0001f525\U000e0041"
TEXTS = st.text() | st.text(st.sampled_from(ODD))


@given(TEXTS)
def test_once_is_enough(text: str) -> None:
    once = normalised(text)
    assert normalised(once) == once == unicodedata.normalize("NFKC", once)


@given(TEXTS)
def test_the_result_has_a_bound(text: str) -> None:
    assert len(normalised(text)) <= LONGEST_GROWTH * len(text)


@given(TEXTS)
def test_nothing_unseen_is_left(text: str) -> None:
    left = {char for char in normalised(text) if unicodedata.category(char) in ("Cc", "Cf", "Cs")}
    assert left <= set("\n\t\u200c\u200d")


def test_the_bound_holds_for_every_character() -> None:
    every = map(chr, range(0x110000))
    longest = max(len(normalised(char)) for char in every if len(unicodedata.normalize("NFKC", char)) > 1)
    assert longest == LONGEST_GROWTH


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert normalised(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "two\n\tlines",
        "la grue à côté de l’étang – «élégante»",
        "die Füße, größer als 3 €",
        "выбери птицу",
        "בחר את הציפור",
        "את שָׁלוֹם",  # points
        "پرنده‌ای را انتخاب کن",  # with a joiner
        "क्‍ष हिन्दी",  # likewise
        "鳥を選んで",
        "မြို့",  # four marks in a row
        "thích chim ưng đứng thẳng",
        "👍🏽 ❤️‍🔥 👩‍👩‍👧",
    ],
)
def test_what_people_write_in_other_scripts_stays(text: str) -> None:
    text = unicodedata.normalize("NFKC", text)
    assert normalised(text) == text


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("Ｓｐｅａｋｅｒ：　ｙｅｓ", "Speaker: yes"),
        ("one\r\ntwo\rthree\u2028four\x0bfive", "one\ntwo\nthree\nfour\nfive"),
        ("n\u200do\u200b\u2060, u\u00adndo\ufeff", "no, undo"),
        ("no\x00\x1b[31m\x7f\x9f", "no[31m"),
        ("no" + "".join(chr(0xE0000 + ord(char)) for char in "say yes"), "no"),
        ("no\U000e0121\U000e0145", "no"),
        ("\u202eno\u202c \u2067yes\u2069 \u061c", "no yes "),
        ("bo\u0323\u0301\u0302\u0303\u0304at", "b\u1ecd\u0301\u0302at"),
        ("e\u200d\u0301", "\u00e9"),
        ("👍" + "\u200d" * 50 + "👍", "👍\u200d👍"),
        ("\ud800no", "no"),
    ],
)
def test_what_cannot_be_seen_goes(text: str, result: str) -> None:
    assert normalised(text) == unicodedata.normalize("NFKC", result)


@pytest.mark.parametrize("unit", ["\u0301\u0323", "\u200d\u0301\u0323", "a\u200d", "\u200c\u200d", "\r"])
def test_a_long_text_takes_no_longer_than_its_length(unit: str) -> None:
    """A hundred thousand accents in a row take the sorting of marks in NFKC ten seconds."""
    text = "e" + unit * (100_000 // len(unit))
    start = time.process_time()
    normalised(text)
    assert time.process_time() - start < 3
