"""What is known of a user without their id: keyed hashes of networks, and days."""

from __future__ import annotations

from datetime import date

import pytest
from samples import game

from respect_core.log.pseudonyms import network, place
from respect_core.log.records import InteractionLog, turn_rows, utc_day


def test_a_network_is_a_24_or_a_64(monkeypatch: pytest.MonkeyPatch) -> None:
    assert network("203.0.113.7") == network("203.0.113.250") == network("::ffff:203.0.113.9")
    assert network("203.0.113.7") != network("203.0.114.7")
    assert network("2001:db8:0:1::a") == network("2001:db8:0:1:ffff::b%eth0") != network("2001:db8:0:2::a")
    for nothing in ("127.0.0.1", "::1", "0.0.0.0", "unknown", "testclient"):
        assert network(nothing) is None
    before = network("203.0.113.7"), place("game")
    monkeypatch.setenv("RESPECT_USER_KEY", "a secret of some length")
    assert (network("203.0.113.7"), place("game")) != before and 0 <= place("game") < 2**64


def test_a_day_is_one_of_utc() -> None:
    assert utc_day("2026-01-02T03:04:05") == utc_day("2026-01-01T22:04:05-05:00") == date(2026, 1, 2)
    assert utc_day("1970-01-01T00:00:00+00:00") is None, "stands for an unknown time"
    assert utc_day("0001-01-01T00:00:00+10:00") == date(1, 1, 1)


def test_a_record_without_these_fields_has_the_bytes_that_it_had() -> None:
    log = game()
    assert "address_prefix" not in log.model_dump_json() and "signed_in" not in log.model_dump_json()
    assert InteractionLog.model_validate_json(log.model_dump_json()) == log
    row = turn_rows(log.model_copy(update={"address_prefix": "ab", "signed_in": False}))[0]
    assert (row["day"], row["address_prefix"], row["signed_in"]) == (date(2026, 1, 2), "ab", False)
