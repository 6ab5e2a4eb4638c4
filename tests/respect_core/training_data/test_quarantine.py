"""Users whose follow-ups fit nobody else's."""

from __future__ import annotations

import random
from collections import Counter

import pyarrow as pa
import pytest

from respect_core.stats import binomial_tail, holm
from respect_core.store.base import Store
from respect_core.training_data import quarantine
from respect_core.training_data.quarantine import Counts, Owners


def _labels(rows: list[tuple[str, int, int]]) -> list[pa.RecordBatch]:
    names = ("interaction_id", "turn", "label")
    return [pa.RecordBatch.from_pydict({name: [row[at] for row in rows] for at, name in enumerate(names)})]


def _owners(games: dict[str, str]) -> Owners:
    return Owners([pa.RecordBatch.from_pydict({"interaction_id": list(games), "user": list(games.values())})])


def test_labels_that_differ_are_counted_by_user() -> None:
    owners = _owners({"g1": "ann", "g2": "ann", "g3": "bob"})
    first = _labels([("g1", 0, 1), ("g1", 1, -1), ("g2", 0, 1), ("g3", 0, 1), ("g4", 0, 1)])
    second = _labels([("g2", 0, 0), ("g1", 0, 1), ("g3", 0, -1), ("g1", 1, 0)])
    assert quarantine.praises(owners, first) == Counts(Counter(ann=3, bob=1), Counter(ann=2, bob=1))
    assert quarantine.differences(owners, first, second) == Counts(Counter(ann=3, bob=1), Counter(ann=1, bob=1))


def test_honest_users_stay_and_those_who_stand_out_go() -> None:
    rng = random.Random(0)
    n = Counter({f"user-{number}": 30 for number in range(200)})
    praised = Counter({user: sum(rng.random() < 0.4 for _ in range(30)) for user in n})
    differing = Counter({user: sum(rng.random() < 0.03 for _ in range(30)) for user in n})
    assert not quarantine.suspects({"ternary": Counts(n, differing)}, Counts(n, praised), 2)
    praised["user-7"] = 30
    differing["user-9"] = 12
    found = quarantine.suspects({"ternary": Counts(n, differing)}, Counts(n, praised), 2)
    assert [(each.user, each.found, each.turns, each.round) for each in found] == [
        ("user-7", 30, 30, 2),
        ("user-9", 12, 30, 2),
    ]
    assert "praises nearly everything: 30 of 30 turns, of others 39.0%" in str(found[0])
    assert "is read otherwise by the decoder ternary" in str(found[1])


def test_few_turns_are_not_enough() -> None:
    n, praised = Counter({f"user-{number}": 30 for number in range(20)}), Counter({"user-0": 10, "few": 5})
    n["few"] = 5
    assert not quarantine.suspects({}, Counts(n, praised), 0)


def test_a_record_is_written_once_and_a_released_user_stays_released(store: Store) -> None:
    record = quarantine.Exclusion(user="ab12", reason="praises", round=1, turns=30, found=30, share=0.4, p_value=1e-6)
    assert quarantine.add(store, [record]) == [record] and quarantine.add(store, [record]) == []
    assert quarantine.users(store) == ["ab12"]
    released = quarantine.release(store, "ab12", "eve", "she is kind")
    assert "released by eve: she is kind" in str(released)
    assert quarantine.add(store, [record]) == [] and quarantine.users(store) == [] and quarantine.read(store)
    with pytest.raises(ValueError, match="user ab12 is not in quarantine"):
        quarantine.release(store, "ab12", "eve", "")


def test_a_tail_and_a_correction_by_hand() -> None:
    assert binomial_tail(2, 3, 0.5) == pytest.approx(0.5)
    assert binomial_tail(0, 3, 0.1) == 1 and binomial_tail(3, 3, 0.1) == pytest.approx(1e-3)
    assert binomial_tail(1, 5, 0.0) == 0 and binomial_tail(1, 5, 1.0) == 1
    assert holm([0.02, 0.001, 0.04], 0.05) == [True, True, True]
    assert holm([0.03, 0.001, 0.04], 0.05) == [False, True, False]
