"""Mask personal data by patterns: addresses, numbers and secrets. Code and versions survive.

Repetitions that could begin anywhere in a text have a limit, so that the time grows with its length and no faster,
whoever wrote it.

Telephone numbers are checked by Google's rules for all countries (phonenumbers); IBANs and cards by their check digits;
IP addresses by the standard library. A name or a street has no pattern and stays.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from typing import Any

import phonenumbers

from respect_core.scenarios.chat.importers.conversation import ChatTurn, Conversation, Message

_EMAIL = re.compile(r"(?<![\w.+%-])(?!git@)[\w.+%-]+@(?:[\w-]+\.)+[^\W\d_]{2,24}(?![\w@])")
_LOGIN = re.compile(r"(?<=://)[^\s/@:\"'<>]+(?::[^\s/@\"'<>]*)?@(?=[\w\[])")
_SECRET = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\beyJ[\w-]{8,2000}\.eyJ[\w-]{8,4000}\.[\w-]+"  # JSON web tokens
    r"|\b(?:sk|pk|rk)[-_](?:[\w-]{0,40}[-_])?[A-Za-z0-9]{16,}[\w-]*"  # OpenAI, Anthropic, Stripe, Langfuse
    r"|\b(?:gh[pousr]_|github_pat_|glpat-|hf_|npm_|pypi-|xox[abeoprs]-|dop_v1_|shpat_|r8_)[\w-]{16,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[\w-]{30,}|\bya29\.[\w-]{20,}|\bSG\.[\w-]{16,}\.[\w-]{16,}",
    re.DOTALL,
)
_SECRET_MARKS = (  # one of which each of them has: searching for these is faster
    "PRIVATE KEY", "eyJ", "sk-", "pk-", "rk-", "sk_", "pk_", "rk_", "gh", "glpat-", "hf_", "npm_", "pypi-", "xox",
    "dop_v1_", "shpat_", "r8_", "AKIA", "ASIA", "AIza", "ya29.", "SG.",
)  # fmt: skip
_NAMES = ("key", "token", "secret", "passw", "pwd", "bearer")
_NAMED_SECRET = re.compile(  # a value with letters and digits that is said to be a secret
    r"(\b(?:api[_-]?key|access[_-]?key|auth[_-]?token|access[_-]?token|secret(?:[_-]?(?:access[_-])?key)?|token|password"
    r"|passwd|pwd|bearer)\b[\"']?\s*(?:[:=]|\bis\b|(?<=bearer)\s)\s*[\"']?)"
    r"((?=[\w+/=-]{0,200}?[A-Za-z])(?=[\w+/=-]{0,200}?\d)[\w+/=-]{12,})",
    re.IGNORECASE,
)
_NUMBERS = re.compile(r"\d[\d .:()/\u2010-\u2015-]{5}|:[0-9A-Fa-f]{0,4}:")  # what all below have
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-]|\.\d)")
_CARD_STARTS = re.compile(r"4|5[1-5]|2[2-7]|3[47]|3[068]|35|6(?:011|4[4-9]|5|2)")
_IPV4 = re.compile(r"(?<![\w.-])(\d{1,3}(?:\.\d{1,3}){3})(?![\w-]|\.\w)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4})(?![\w:])")
_VERSION_BEFORE = re.compile(
    r"(?:\bv(?:er)?\.?|version\W{0,3}|release\W{0,3}|build\W{0,3}|[=~<>!^@]=?)\s*$", re.IGNORECASE
)
_PHONE = re.compile(r"(?<![\w.,:/#$€£=+*-])(?:\+\d|\(?\d)[\d\s().\u2010-\u2015/-]{5,22}\d(?![\w%]|[.,:/=*+-]\d)")
_CALLED = re.compile(
    r"(?:phone|tel(?:ephone)?|mobile|cell|call|text|whatsapp|fax|number is)\W{0,3}(?:me |us )?(?:at |on )?\W{0,3}$",
    re.IGNORECASE,
)
_NORTH_AMERICAN = re.compile(r"(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}")
_DATE = re.compile(r"\b(?:(?:19|20)\d\d[-./ ]\d{1,2}|\d{1,2}[-./ ](?:19|20)\d\d)\b")
_REGIONS = ("GB", "DE", "FR", "IT", "ES", "NL", "BE", "CH", "AT", "PL", "SE", "AU", "JP", "CN", "KR", "BR", "ZA", "IL")
"""Regions whose national form, which begins with 0, is known without a country code."""


class Redactor:
    """Masks personal data, and counts what it masked by kind."""

    def __init__(self, masked: Counter[str] | None = None) -> None:
        self.masked = masked if masked is not None else Counter[str]()

    def __call__(self, text: str) -> str:
        """Return a text with each personal datum replaced by its kind, such as [EMAIL]."""
        if "://" in text:
            text = _LOGIN.sub(partial(self._masked, "LOGIN", lambda _: True, end="@"), text)
        if any(mark in text for mark in _SECRET_MARKS):
            text = _SECRET.sub(partial(self._masked, "SECRET", lambda _: True), text)
        lower = text.lower()
        if any(name in lower for name in _NAMES):
            text = _NAMED_SECRET.sub(self._named_secret, text)
        if "@" in text:
            text = _EMAIL.sub(partial(self._masked, "EMAIL", lambda _: True), text)
        if not _NUMBERS.search(text):
            return text
        for kind, pattern, test in _CHECKED:
            text = pattern.sub(partial(self._masked, kind, test), text)
        return text

    def _masked(self, kind: str, test: Callable[[re.Match[str]], bool], match: re.Match[str], end: str = "") -> str:
        if not test(match):
            return match[0]
        self.masked[kind] += 1
        return f"[{kind}]{end}"

    def _named_secret(self, match: re.Match[str]) -> str:
        self.masked["SECRET"] += 1
        return f"{match[1]}[SECRET]"

    # --- conversations ---

    def conversation(self, conversation: Conversation) -> Conversation:
        """Return a conversation with all its texts masked. The user's id, of which a pseudonym is made, stays."""
        return replace(
            conversation,
            id=self(conversation.id),
            system=self(conversation.system) if conversation.system else None,
            tools=tuple(map(self.json, conversation.tools)),
            turns=tuple(map(self._turn, conversation.turns)),
            opening=tuple(map(self.message, conversation.opening)),
        )

    def _turn(self, turn: ChatTurn) -> ChatTurn:
        utterance, reply = self(turn.utterance), tuple(map(self.message, turn.reply))
        siblings = tuple(
            replace(each, utterance=self(each.utterance), reply=tuple(map(self.message, each.reply)))
            for each in turn.siblings
        )
        # The tokens of a masked reply would give it away, and are not those of what is stored.
        tokens = turn.token_ids if reply == turn.reply else None
        return replace(turn, utterance=utterance, reply=reply, siblings=siblings, token_ids=tokens)

    def message(self, message: Message) -> Message:
        return replace(
            message,
            content=self(message.content),
            tool_calls=tuple(replace(each, arguments=self.json(each.arguments)) for each in message.tool_calls),
            name=self(message.name) if message.name else message.name,
        )

    def json(self, text: str) -> str:
        """Return JSON with its texts and numbers masked; it stays JSON."""
        with suppress(ValueError, RecursionError):
            before = json.loads(text)
            after = self._value(before)
            return text if after == before else json.dumps(after, ensure_ascii=False)
        return self(text)

    def _value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self(key): self._value(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self._value(each) for each in value]
        if isinstance(value, str):
            return self(value)
        if isinstance(value, int) and not isinstance(value, bool) and (text := self(str(value))) != str(value):
            return text
        return value


# --- checks -----------------------------------------------------------------------------------------------------


def _is_iban(match: re.Match[str]) -> bool:
    compact = match[0].replace(" ", "")
    return 15 <= len(compact) <= 34 and int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def _is_card(match: re.Match[str]) -> bool:
    digits = [int(char) for char in match[0] if char.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    known = _CARD_STARTS.match("".join(map(str, digits)))
    return known is not None and len(set(digits)) > 1 and (sum(digits[::-2]) + sum(doubled)) % 10 == 0


def _is_address(match: re.Match[str]) -> bool:
    """Tell whether it is an IP address of somebody: no version, and neither a loopback nor a netmask."""
    with suppress(ValueError):
        address = ip_address(match[0])
        if address.version == 6 and len(match[0].replace("::", ":").strip(":").split(":")) < 3:
            return False
        harmless = address.is_loopback or address.is_unspecified or match[0].startswith("255.")
        return not harmless and not _VERSION_BEFORE.search(match.string[max(0, match.start() - 16) : match.start()])
    return False


def _is_phone(match: re.Match[str]) -> bool:
    text = match[0]
    digits = "".join(char for char in text if char.isdigit())
    if not 7 <= len(digits) <= 15 or "\n" in text or _DATE.search(text):
        return False
    if _CALLED.search(match.string[max(0, match.start() - 24) : match.start()]):
        return True
    if text.startswith(("+", "00")):
        return _possible("+" + digits.removeprefix("00"), None)
    if _NORTH_AMERICAN.fullmatch(text):
        return True
    separated = re.fullmatch(r"\(?0\d[\d /().-]*", text) and any(char in " /-(." for char in text)
    return bool(separated) and any(_valid(digits, region) for region in _REGIONS)


def _possible(text: str, region: str | None) -> bool:
    with suppress(phonenumbers.NumberParseException):
        return phonenumbers.is_possible_number(phonenumbers.parse(text, region))
    return False


def _valid(text: str, region: str) -> bool:
    with suppress(phonenumbers.NumberParseException):
        return phonenumbers.is_valid_number(phonenumbers.parse(text, region))
    return False


_CHECKED: tuple[tuple[str, re.Pattern[str], Callable[[re.Match[str]], bool]], ...] = (
    ("IBAN", _IBAN, _is_iban),
    ("CARD", _CARD, _is_card),
    ("IP", _IPV4, _is_address),
    ("IP", _IPV6, _is_address),
    ("PHONE", _PHONE, _is_phone),
)
