"""Rules for text that users write: what is stored, shown and read by a model is what can be seen."""

from __future__ import annotations

import re
import unicodedata

LONGEST_GROWTH = 18
"""Most characters that `normalised` makes of one: NFKC spells the ligature U+FDFA in 18."""

MARKS_IN_A_ROW = 4  # as Burmese has them
STACKED_MARKS_IN_A_ROW = 2  # those with a combining class, such as accents, which pile up above and below a letter

_LINE_ENDS = re.compile("\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]")
# Not shown, and no category tells: fillers, separators within scripts, selectors of glyph variants, and the tags that
# spell ASCII unseen. U+FE00 to U+FE0F, which choose between text and emoji, stay.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u3164\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]")
_JOINERS = re.compile("[\u200c\u200d]+")
_JOINED = "\u0600"  # scripts that are written with joiners, and emoji, stand from here on


def normalised(text: str) -> str:
    """Bring a text into NFKC, without what is invisible and without piles of combining marks.

    Control and format characters are dropped, but for tab, the end of a line (always a newline here), and single
    joiners within emoji and within the scripts that need them. Of combining marks in a row, those stay that come
    before the third stacked one or the fifth of any kind.

    Normalising twice changes nothing more. The result has at most LONGEST_GROWTH characters for each of the text.
    """
    if text.isascii() and text.isprintable():
        return text
    while True:
        # NFKC sorts the marks of a row in quadratic time; 30 are Unicode's own limit for a stream (UAX 15).
        composed = unicodedata.normalize("NFKC", _with_fewer_marks(_visible(text), 30, 30))
        once = _with_fewer_marks(composed, MARKS_IN_A_ROW, STACKED_MARKS_IN_A_ROW)
        if once == text:
            return text
        text = once


def _visible(text: str) -> str:
    text = _BLANK.sub("", _LINE_ENDS.sub("\n", text))
    text = "".join(char for char in text if char in "\n\t\u200c\u200d" or unicodedata.category(char) not in _UNSEEN)
    return _JOINERS.sub(_joiner, text)


_UNSEEN = ("Cc", "Cf", "Cs")


def _joiner(found: re.Match[str]) -> str:
    start, stop = found.span()
    before, after = found.string[max(0, start - 1) : start], found.string[stop : stop + 1]
    return found[0][0] if before >= _JOINED and after >= _JOINED else ""


def _with_fewer_marks(text: str, most: int, most_stacked: int) -> str:
    kept, marks, stacked = [], 0, 0
    for char in text:
        if unicodedata.category(char).startswith("M"):
            marks, stacked = marks + 1, stacked + (unicodedata.combining(char) > 0)
        else:
            marks = stacked = 0
        if marks <= most and stacked <= most_stacked:
            kept.append(char)
    return "".join(kept)
