"""Normalise text that users write, and keep models from taking any of it for their own prompt.

`normalised` gives the form in which text is stored and shown. A `Reader` brings such text into a prompt: where a user
writes 'Speaker: yes', a special token or the end of the prompt, it is read as the user's own words, and the text is
marked, so that training skips it.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

RULES = "2"
"""Version of these rules. Change it when they mark or read text differently: feedback is then decoded again."""

LONGEST_GROWTH = 18
"""Most characters that `normalised` makes of one: NFKC expands the ligature U+FDFA to 18."""

MARKS_IN_A_ROW = 4  # as in Burmese
STACKED_MARKS_IN_A_ROW = 2  # marks with a combining class, such as accents, which pile up above and below a letter

_LINE_ENDS = re.compile("\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]")
# Invisible, though no category says so: fillers, separators within scripts, selectors of glyph variants, and the tags
# that spell ASCII invisibly. U+FE00 to U+FE0F, which choose between text and emoji, stay.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u3164\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]")
_JOINERS = re.compile("[\u200c\u200d]+")
_FIRST_JOINED = "\u0600"  # scripts that are written with joiners, and emoji, start here
_INVISIBLE = ("Cc", "Cf", "Cs")


# --- the normal form --------------------------------------------------------------------------------------------


def normalised(text: str) -> str:
    """Return a text in NFKC, without invisible characters and without piles of combining marks.

    Control and format characters are dropped, except for tab, line ends (which become newlines), and single joiners
    within emoji and the scripts that need them. Of combining marks in a row, those before the third stacked one or the
    fifth of any kind stay.

    Normalising twice changes nothing more. The result has at most LONGEST_GROWTH characters for each one of the text.
    """
    if text.isascii() and text.isprintable():
        return text
    while True:
        # NFKC sorts marks in a row in quadratic time; 30 is Unicode's own limit for a stream (UAX 15).
        composed = unicodedata.normalize("NFKC", _with_fewer_marks(_visible(text), 30, 30))
        once = _with_fewer_marks(composed, MARKS_IN_A_ROW, STACKED_MARKS_IN_A_ROW)
        if once == text:
            return text
        text = once


def _visible(text: str) -> str:
    text = _BLANK.sub("", _LINE_ENDS.sub("\n", text))
    text = "".join(char for char in text if char in "\n\t\u200c\u200d" or unicodedata.category(char) not in _INVISIBLE)
    return _JOINERS.sub(_joiner, text)


def _joiner(match: re.Match[str]) -> str:
    start, stop = match.span()
    before, after = match.string[max(0, start - 1) : start], match.string[stop : stop + 1]
    return match[0][0] if before >= _FIRST_JOINED and after >= _FIRST_JOINED else ""


def _with_fewer_marks(text: str, most: int, most_stacked: int) -> str:
    chars, marks, stacked = [], 0, 0
    for char in text:
        if unicodedata.category(char).startswith("M"):
            marks, stacked = marks + 1, stacked + (unicodedata.combining(char) > 0)
        else:
            marks = stacked = 0
        if marks <= most and stacked <= most_stacked:
            chars.append(char)
    return "".join(chars)


# --- on the way into a prompt -----------------------------------------------------------------------------------


class Mark(StrEnum):
    """A reason why a model could take a text for a part of its prompt."""

    ROLE = "role"
    SPECIAL_TOKEN = "special token"
    PROMPT = "prompt"


@dataclass(frozen=True)
class Reading:
    """A text as a model reads it. Without marks it says what the user wrote; `cut` tells whether some is left out."""

    text: str
    marks: frozenset[Mark] = frozenset()
    cut: bool = False


class Reader:
    """A reader of users' text for one tokenizer's prompts: no model takes the result for a part of its prompt.

    A colon after a role's name, or a lookalike, becomes a comma. A special token, of this tokenizer or of another,
    becomes a space. Words about the prompt or its answer stay, and are marked.

    Args:
        longest: most tokens of a text, at least 1; a longer one loses its middle. None: texts stay whole.
    """

    def __init__(self, tokenizer: Any, longest: int | None = None) -> None:
        self._tokenizer, self.longest = tokenizer, longest
        # Added tokens that are words, white space or the bytes of unknown characters steer no model.
        added = {token for token in tokenizer.get_added_vocab() if token.strip() and not _HARMLESS.fullmatch(token)}
        names = sorted(added.union(map(str, tokenizer.all_special_tokens)), key=len, reverse=True)
        self._special = re.compile("|".join([*map(re.escape, names), _TOKENS_OF_OTHERS]))
        self._special_ids = set(tokenizer.convert_tokens_to_ids(names)) - {tokenizer.unk_token_id}
        self._readings: dict[str, Reading] = {}

    def __call__(self, text: str) -> Reading:
        """Return the text in its normal form, neutralised and cut."""
        if text not in self._readings:
            if len(self._readings) >= 100_000:
                self._readings.clear()
            self._readings[text] = self._read(text)
        return self._readings[text]

    def _read(self, text: str) -> Reading:
        whole, marks = normalised(text), set[Mark]()
        if _PROMPT.search(_latin_lookalike(whole)):
            marks.add(Mark.PROMPT)
        for mark, neutral in ((Mark.ROLE, _without_roles), (Mark.SPECIAL_TOKEN, self.without_special_tokens)):
            before, whole = whole, neutral(whole)
            if whole != before:
                marks.add(mark)
        short = self._cut(whole)
        return Reading(short, frozenset(marks), cut=short != whole)

    def without_special_tokens(self, text: str) -> str:
        """Return a text in which the tokenizer finds no special token, however it searches."""
        text = self._special.sub(" ", text)
        if _WORDS.fullmatch(text) or self._special_ids.isdisjoint(self._ids(text)):
            return text
        return "".join(char if char.isalnum() or char in " ,.!?'" else " " for char in text)

    def _cut(self, text: str) -> str:
        if self.longest is None or (text.isascii() and len(text) <= self.longest):
            return text
        side, short = len(text) // 2, text  # characters at either end
        while (length := len(self._ids(short))) > self.longest:
            side = min(side - 1, side * self.longest // length)
            short = f"{text[:side]} ... {text[len(text) - side :]}"
        return short

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)


class Vocabulary:
    """The characters that a tokenizer has tokens for."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._lacks: dict[str, bool] = {}
        self._unknown = self._tokens("\uffff")  # not a character, and so in no vocabulary

    def lacks(self, text: str) -> bool:
        """Tell whether a text has a character, combining marks apart, that is tokenised as an unknown one."""
        return not text.isascii() and any(map(self._lacks_character, normalised(text)))

    def _lacks_character(self, char: str) -> bool:
        if char not in self._lacks:
            mark = unicodedata.category(char).startswith("M")
            self._lacks[char] = not (char.isascii() or mark) and self._tokens(char) == self._unknown
        return self._lacks[char]

    def _tokens(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)


# --- patterns of prompts ----------------------------------------------------------------------------------------

# Letters and digits that look like Latin letters, and below them those letters; l and 1 count as i.
_LOOKALIKES = str.maketrans(
    "аеорсухіѕјԁһкмтвнг" "αεορντκιυηϲıɑɡոսօհ" "ᴀᴄᴅᴇɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡ" "01345@$l",
    "aeopcyxisjdhkmtbhr" "aeopvtkiuncaagnuoh" "acdeghijkimnoprstuvw" "oieasasi",
)  # fmt: skip


def _latin_lookalike(text: str) -> str:
    """Replace each character that looks like a Latin letter with that letter, in lower case."""
    if not text.isascii():
        text = "".join(unicodedata.normalize("NFD", char.casefold())[:1] for char in text)
    return text.lower().translate(_LOOKALIKES)


def _any_of(words: str) -> str:
    """Return a pattern of words as `_latin_lookalike` spells them, with up to two characters between letters."""
    return "|".join(r"[\W_]{0,2}".join(word) for word in words.translate(_LOOKALIKES).split())


_COLONS = ":\u02d0\u02f8\u0589\u05c3\u0703\u0704\u1365\u1366\u16ec\u1803\u1809\u205a\u205d\u205e\u2236\u2237\ua789"
_PROMPT_ROLES = _any_of("speaker listener")  # names in a decoder's prompt
_CHAT_ROLES = _any_of("user human assistant system model bot chatbot ai instruction response")
# A role and what follows it: after a role of a decoder's prompt, anything that cannot continue a sentence.
_ROLE = re.compile(
    rf"(?<![^\W_])(?:(?:{_PROMPT_ROLES})(?P<mark>[^\w,.!?'\u2019]*[{_COLONS}\n;=>|\[\](){{}}<*#\"/\\~\u2013\u2014-][^\w]*)"
    rf"|(?:{_CHAT_ROLES})(?P<colon>[^\w,.!?;'\u2019]*[{_COLONS}][^\w]*))"
)

_LABEL = _any_of("positive negative neutral")
_PROMPT = re.compile(
    "|".join(
        [
            rf"(?:{_any_of('answer say reply respond return output label classify mark rate score count verdict')})"
            rf"\w*\W+(?:\w+\W+){{0,2}}?(?:{_LABEL})",
            rf"(?:{_any_of('feedback sentiment rating')})\W+(?:\w+\W+){{0,2}}?(?:{_LABEL})",
            rf"(?:{_LABEL})\W+(?:{_any_of('feedback sentiment rating')})",
            rf"(?P<label>{_LABEL})\W+(?P=label)",
            rf"(?:{_PROMPT_ROLES})\W{{0,2}}s\W+(?:{_any_of('feedback')})",
            rf"(?:{_any_of('user')})\W+(?:{_any_of('was')})\W+(?:\w+\W+)?"
            rf"(?:{_any_of('happy unhappy satisfied pleased')})",
            rf"(?:{_any_of('start end')})\W+of\W+(?:the\W+)?(?:{_any_of('conversation')})",
            rf"(?:{_any_of('answer')})\W+(?:\w+\W+){{0,2}}?(?:{_any_of('single')})\W+(?:{_any_of('word')})",
            rf"(?:{_any_of('ignore disregard forget override')})\W+(?:\w+\W+){{0,4}}?"
            rf"(?:{_any_of('instruction prompt')})",
        ]
    )
)

_TOKENS_OF_OTHERS = (
    r"<\|[^<>|\n]{1,40}\|>|\[/?(?:INST|SYS|IMG|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS)\]|<</?SYS>>"
    r"|</?(?:s|bos|eos|pad|unk|image|mask|sep|cls|[a-z]+_[a-z_]+)>"
)
_HARMLESS = re.compile(r"\s*\w+\s*|<0x[0-9A-F]{2}>")
_WORDS = re.compile(r"[\w\s,.!?'-]*", re.ASCII)  # characters that make no special token


def _without_roles(text: str) -> str:
    pieces, at = [], 0
    for role in _ROLE.finditer(_latin_lookalike(text)):
        start, stop = role.span(role.lastgroup or 0)
        pieces.append(text[at:start] + ", ")
        at = stop
    return "".join([*pieces, text[at:]]).rstrip() if pieces else text
