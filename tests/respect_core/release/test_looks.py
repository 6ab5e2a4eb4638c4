"""Looks at candidates, on a directory and on a real S3 server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from respect_core.release import looks
from respect_core.release.ledger import LedgerError
from respect_core.release.looks import Question
from respect_core.store.base import Store

MODEL = "respect.b-fft"


def _asked(version: int = 2, **more: Any) -> Question:
    fields = {
        "model": MODEL,
        "candidate": f"{MODEL}/{version}",
        "adapter_hash": "a",
        "against": {"deployed": f"{MODEL}/1"},
        "game_set": "gate",
        "sha256": "g",
    }
    return Question.model_validate(fields | more)


def test_a_store_of_an_earlier_release_has_no_looks(store: Store) -> None:
    assert looks.read(store, MODEL) == [] and looks.models(store) == [] and looks.number(store, _asked()) == 1


def test_each_question_is_one_look_and_others_are_more(store: Store) -> None:
    assert looks.spend(store, _asked(), "ann") == 1
    assert looks.spend(store, _asked(), "bob") == 1  # such as after an approval
    assert looks.spend(store, _asked(3), "ann") == 2
    others: list[dict[str, Any]] = [
        {"sha256": "h"},
        {"game_set": "mine"},
        {"against": {"deployed": f"{MODEL}/0"}},
        {"adapter_hash": "b"},
    ]
    for number, other in enumerate(others, start=3):
        assert looks.number(store, _asked(**other)) == looks.spend(store, _asked(**other), "ann") == number
    assert looks.spend(store, _asked(model="respect.t-fft"), "ann") == 1
    assert looks.models(store) == [MODEL, "respect.t-fft"]
    assert [each.number for each in looks.read(store, MODEL)] == [1, 2, 3, 4, 5, 6]
    first = looks.read(store, MODEL)[0]
    assert first.actor == "ann" and first.question == _asked()
    assert str(first).startswith(f"{MODEL}: look 1 at ") and str(first).endswith("on 'gate', by ann")


def test_those_who_look_at_the_same_time_get_numbers_of_their_own(store: Store) -> None:
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda version: looks.spend(store, _asked(version % 6), "ann"), range(12)))
    assert sorted(set(numbers)) == [1, 2, 3, 4, 5, 6] and numbers[:6] == numbers[6:]


def test_a_look_that_is_gone_or_broken_is_named(store: Store) -> None:
    for version in (1, 2):
        looks.spend(store, _asked(version), "ann")
    store.put(looks.key(MODEL, 2), b"{}")
    with pytest.raises(LedgerError, match=r"000002.json: field number: Field required; restore the look"):
        looks.read(store, MODEL)
    store.delete(looks.key(MODEL, 1))
    with pytest.raises(LedgerError, match=r"expected look 1; restore looks/respect\.b-fft/000001\.json"):
        looks.read(store, MODEL)
