"""Personal data is masked before anything is stored; code and versions survive."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from chat_logs import WRITERS, conversation, exchange, write
from hypothesis import given
from hypothesis import strategies as st

from respect_core.scenarios.chat.importers import Imported, Message, Sibling, ToolCall, read_conversations
from respect_core.scenarios.chat.importers.redact import Redactor

KEY = "sk" + "-proj-" + "a1B2" * 8
PERSONAL = [
    ("write to jane.doe+x@mail.example.co.uk.", "write to [EMAIL].", "EMAIL"),
    ("müller@firma.de", "[EMAIL]", "EMAIL"),
    ("call +44 20 7946 0958 today", "call [PHONE] today", "PHONE"),
    ("call me at 5551234567", "call me at [PHONE]", "PHONE"),
    ("(212) 555-0147 or 212-555-0147", "[PHONE] or [PHONE]", "PHONE"),
    ("Tel. 030 901820-33", "Tel. [PHONE]", "PHONE"),
    ("06 12 34 56 78", "[PHONE]", "PHONE"),
    ("+1 858-539-8666, not +5", "[PHONE], not +5", "PHONE"),
    ("IBAN DE89 3704 0044 0532 0130 00, please", "IBAN [IBAN], please", "IBAN"),
    ("GB82WEST12345698765432", "[IBAN]", "IBAN"),
    ("card 4111 1111 1111 1111 exp", "card [CARD] exp", "CARD"),
    ("378282246310005", "[CARD]", "CARD"),
    ("from 203.0.113.7:8080", "from [IP]:8080", "IP"),
    ("host 2001:db8:85a3::8a2e:370:7334 is up", "host [IP] is up", "IP"),
    ("postgres://ann:s3cret@db.example.com/x", "postgres://[LOGIN]@db.example.com/x", "LOGIN"),
    (f"key {KEY} works", "key [SECRET] works", "SECRET"),
    ("gh" + "p_" + "a1" * 18, "[SECRET]", "SECRET"),
    ("AKIA" + "ABCDEFGH12345678", "[SECRET]", "SECRET"),
    ("Bearer " + "abc123" * 4, "Bearer [SECRET]", "SECRET"),
    ('api_key = "' + "q1w2e3r4t5y6u7" + '"', 'api_key = "[SECRET]"', "SECRET"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3.c2lnbmF0dXJl", "[SECRET]", "SECRET"),
]
HARMLESS = [
    "prefect 3.8.8 and v1.2.3.4, version 10.20.30.40, numpy==1.26.4.1",
    "std::vector<int> a; b::c::d; x[1::2]",
    "for i in range(1000000): total += 12345 * 67890",
    "2026-03-01 12:30:45 and 01/03/2026 or 2024-09-12 10:15",
    "localhost is 127.0.0.1 or ::1, netmask 255.255.255.0, bind 0.0.0.0",
    "git clone git@github.com:user/repo.git",
    "@app.route('/') def f(self, *args): ...",
    "1234567890123456 is no card, 3.14159265358979 is pi",
    "token = tokenizer.decode(ids[0]); password = getpass()",
    "sha 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "uuid 123e4567-e89b-12d3-a456-426614174000",
    "ISBN 978-3-16-148410-0, pages 100-200, 1990-1995",
    "a costs $1,234,567.89, b 1 000 000 EUR",
    "x = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]",
    "https://example.com/a/b?page=2&sort=asc#12",
    "print('%d-%02d' % (10, 5)) # 100% 10:30",
    "0.001 0.002 0.003 0.004",
    "1 2 3 4 5 6 7 8 9",
    "08/2014 - 01/2018, 09/2013 - 12/2013",
    "sqrt(81000000 + 16000000)",
]


@pytest.mark.parametrize(("text", "masked", "kind"), PERSONAL)
def test_personal_data_is_masked_and_counted(text: str, masked: str, kind: str) -> None:
    redactor = Redactor()
    assert redactor(text) == masked
    assert set(redactor.masked) == {kind}


@pytest.mark.parametrize("text", HARMLESS)
def test_code_numbers_and_versions_survive(text: str) -> None:
    redactor = Redactor()
    assert redactor(text) == text and not redactor.masked


@given(st.text() | st.sampled_from([text for text, *_ in PERSONAL]))
def test_masking_twice_masks_no_more(text: str) -> None:
    once = Redactor()(text)
    assert Redactor()(once) == once


def test_every_text_of_a_conversation_is_masked() -> None:
    mail = "jane@example.com"
    call = Message("assistant", "", (ToolCall("send", json.dumps({"to": mail, "card": 4111111111111111}), "1"),))
    turn = exchange(mail, call, mail, token_ids=(1, 2), siblings=(Sibling(mail, (Message("assistant", mail),)),))
    talk = conversation(
        turn, id=mail, system=mail, tools=(json.dumps({"default": mail}),), opening=(Message("user", mail),)
    )
    redactor = Redactor()
    masked = redactor.conversation(talk)
    assert mail not in repr(masked) and masked.user == "ann" and redactor.masked == {"EMAIL": 9, "CARD": 1}
    assert json.loads(masked.turns[0].reply[0].tool_calls[0].arguments) == {"to": "[EMAIL]", "card": "[CARD]"}
    assert masked.turns[0].token_ids is None


def test_imports_mask_unless_told_otherwise(tmp_path: Path) -> None:
    talk = conversation(exchange("I am jane@example.com", "Hello"))
    path = write(tmp_path / "log.jsonl", WRITERS["messages"].records(talk))
    summary = Imported()
    (masked,) = read_conversations([path], imported=summary)
    (raw,) = read_conversations([path], redact=False)
    assert masked.turns[0].utterance == "I am [EMAIL]" and raw.turns[0].utterance == "I am jane@example.com"
    assert summary.masked == {"EMAIL": 1} and "masked: EMAIL 1" in str(summary)


@pytest.mark.parametrize("unit", ["sk-", "eyJ-", "token=", "a@", "1 ", "key: ", "http://", "+1", "::", "AB12 "])
def test_masking_takes_no_longer_than_the_text_is_long(unit: str) -> None:
    """A user of the gateway may write what makes a pattern try every beginning with every end."""
    text, began = (unit * 32_000)[:32_000], time.thread_time()
    Redactor()(text)
    assert time.thread_time() - began < 5.0, "it took 10 seconds for half of it"
