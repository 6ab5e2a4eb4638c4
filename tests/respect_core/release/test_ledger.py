"""The ledger on a directory and on a real S3 server."""

from __future__ import annotations

import threading

import pytest

from respect_core.release import ledger
from respect_core.release.canary_power import planned
from respect_core.release.ledger import Action, Entry, LedgerError
from respect_core.store.base import Store

MODEL = "respect.b-fft"


def _promote(store: Store, before: str, after: str, actor: str = "ann") -> Entry:
    entry = ledger.promotion(
        ledger.entries(store, MODEL),
        MODEL,
        from_version=before,
        to_version=after,
        adapter_hash=f"hash of {after}",
        actor=actor,
        evidence={"reasons": ["good"]},
    )
    ledger.append(store, entry)
    return entry


def _roll_back(store: Store) -> str:
    history = ledger.entries(store, MODEL)
    adapter = f"hash of {ledger.to_roll_back(history, MODEL).from_version}"
    entry = ledger.rollback(history, MODEL, adapter_hash=adapter, actor="bob", reason="worse")
    ledger.append(store, entry)
    return entry.to_version


def test_entries_are_numbered_kept_and_read_back(store: Store) -> None:
    assert ledger.last(store, MODEL) is None and ledger.models(store) == []
    first = _promote(store, "respect.seed/1", f"{MODEL}/1")
    second = _promote(store, f"{MODEL}/1", f"{MODEL}/2")
    assert ledger.entries(store, MODEL) == [first, second]
    assert ledger.last(store, MODEL) == second and ledger.models(store) == [MODEL]
    assert store.keys("promotions/") == [f"promotions/{MODEL}/000001.json", f"promotions/{MODEL}/000002.json"]
    assert (first.number, first.action, first.actor) == (1, Action.PROMOTE, "ann")
    assert first.time.endswith("+00:00") and first.code_version


def test_rolling_back_goes_back_one_promotion_each_time(store: Store) -> None:
    with pytest.raises(LedgerError, match="no promotion to roll back"):
        _roll_back(store)
    _promote(store, "respect.seed/1", f"{MODEL}/1")
    _promote(store, f"{MODEL}/1", f"{MODEL}/2")
    assert _roll_back(store) == f"{MODEL}/1"
    _promote(store, f"{MODEL}/1", f"{MODEL}/3")
    assert _roll_back(store) == f"{MODEL}/1"
    assert _roll_back(store) == "respect.seed/1"
    with pytest.raises(LedgerError, match="no promotion to roll back"):
        _roll_back(store)
    assert [each.action for each in ledger.entries(store, MODEL)].count(Action.ROLLBACK) == 3


def test_a_version_does_not_come_back_with_another_adapter(store: Store) -> None:
    _promote(store, "respect.seed/1", f"{MODEL}/1")
    _promote(store, f"{MODEL}/1", f"{MODEL}/2")
    with pytest.raises(LedgerError, match=rf"{MODEL}/1 had adapter hash of {MODEL}/1 in entry 1 and has other now"):
        ledger.rollback(ledger.entries(store, MODEL), MODEL, adapter_hash="other", actor="bob")


def test_of_two_at_once_one_wins_and_the_other_is_told_by_whom(store: Store) -> None:
    entries = [
        ledger.promotion(
            [], MODEL, from_version="respect.seed/1", to_version=f"{MODEL}/{n}", adapter_hash="h", actor=f"actor-{n}"
        )
        for n in range(4)
    ]
    failures: list[str] = []

    def append(entry: Entry) -> None:
        try:
            ledger.append(store, entry)
        except LedgerError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=append, args=(entry,)) for entry in entries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = ledger.entries(store, MODEL)
    assert len(failures) == 3
    assert all(f"{winner.actor} was first: entry 1 (promote to {winner.to_version})" in each for each in failures)


def test_the_same_entry_again_is_no_conflict(store: Store) -> None:
    """A request whose answer got lost is sent again."""
    entry = _promote(store, "respect.seed/1", f"{MODEL}/1")
    ledger.append(store, entry)
    assert ledger.entries(store, MODEL) == [entry]


def test_a_ledger_with_a_hole_or_a_broken_entry_is_not_believed(store: Store) -> None:
    _promote(store, "respect.seed/1", f"{MODEL}/1")
    _promote(store, f"{MODEL}/1", f"{MODEL}/2")
    kept = store.read(ledger.key(MODEL, 1))
    store.put(ledger.key(MODEL, 1), kept.replace(b'"actor"', b'"author"'))
    with pytest.raises(LedgerError, match=r"000001\.json: field actor: Field required; restore"):
        ledger.entries(store, MODEL)
    store.put(ledger.key(MODEL, 1), store.read(ledger.key(MODEL, 2)))
    with pytest.raises(LedgerError, match=r"holds entry 2 of respect\.b-fft"):
        ledger.last(store, MODEL)
    store.delete(ledger.key(MODEL, 1))
    with pytest.raises(LedgerError, match=r"expected entry 1; restore promotions/respect\.b-fft/000001\.json"):
        ledger.last(store, MODEL)


def _begin_canary(store: Store, candidate: str) -> Entry:
    history = ledger.entries(store, MODEL)
    canary = planned(0.1).model_copy(update={"candidate": candidate, "adapter_hash": f"hash of {candidate}"})
    before = history[-1].to_version if history else "respect.seed/1"
    said = {"to_version": before, "adapter_hash": f"hash of {before}", "actor": "ann"}
    entry = ledger.begin_canary(history, MODEL, canary, **said)
    ledger.append(store, entry)
    return entry


def test_a_canary_is_in_force_until_the_next_entry_and_leaves_what_is_deployed(store: Store) -> None:
    _promote(store, "respect.seed/1", f"{MODEL}/1")
    assert ledger.in_canary(ledger.entries(store, MODEL)) is None and ledger.in_canary([]) is None
    begun = _begin_canary(store, f"{MODEL}/2")
    assert ledger.in_canary(ledger.entries(store, MODEL)) == begun
    assert (begun.from_version, begun.to_version, begun.adapter_hash) == (
        f"{MODEL}/1",
        f"{MODEL}/1",
        f"hash of {MODEL}/1",
    )
    ended = ledger.end_canary(begun, actor="bob", reason="slow")
    ledger.append(store, ended)
    assert ledger.in_canary(ledger.entries(store, MODEL)) is None and ended.to_version == f"{MODEL}/1"
    begun = _begin_canary(store, f"{MODEL}/3")
    ledger.append(store, ledger.promote_canary(begun, actor="canary", evidence={}))
    history = ledger.entries(store, MODEL)
    assert (history[-1].from_version, history[-1].to_version) == (f"{MODEL}/1", f"{MODEL}/3")
    assert [_roll_back(store), _roll_back(store)] == [f"{MODEL}/1", "respect.seed/1"], "canaries are no step"
    with pytest.raises(LedgerError, match="no promotion to roll back"):
        _roll_back(store)


def test_a_canary_that_two_end_is_ended_once(store: Store) -> None:
    begun = _begin_canary(store, f"{MODEL}/2")
    ledger.append(store, ledger.end_canary(begun, actor="ann"))
    with pytest.raises(LedgerError, match=r"ann was first: entry 2 \(end canary to respect\.seed/1\)"):
        ledger.append(store, ledger.promote_canary(begun, actor="bob", evidence={}))


def test_an_entry_without_a_canary_is_written_as_before() -> None:
    assert b"canary" not in ledger.to_bytes(_entry(1, "s/1", "m/1", 0.02))


def _entry(number: int, before: str, after: str, gained: float | None) -> Entry:
    figures = {} if gained is None else {"difference_at_least": gained}
    return Entry(
        number=number,
        model=MODEL,
        action=Action.PROMOTE,
        from_version=before,
        to_version=after,
        adapter_hash="",
        actor="ann",
        time="",
        evidence={"figures": figures},
        code_version="",
    )


def test_the_best_is_what_certainly_gained_most() -> None:
    """Gains add up along promotions; one whose gain is not certain does not displace what it replaced."""
    one, two, three = (_entry(1, "s/1", "m/1", 0.02), _entry(2, "m/1", "m/2", 0.01), _entry(3, "m/2", "m/3", -0.015))
    assert ledger.best([]) is None and ledger.best([three]) is None
    assert ledger.best([one]) == one and ledger.best([one, two]) == two and ledger.best([one, two, three]) == two
    unknown = _entry(4, "m/3", "m/4", None)  # of an earlier release
    assert ledger.best([one, two, three, unknown]) == two
    assert ledger.best([one, two, three, unknown, _entry(5, "m/4", "m/5", 0.02)]) is not two


def test_anchors_are_what_is_not_deployed() -> None:
    one, two = _entry(1, "s/1", "m/1", 0.02), _entry(2, "m/1", "m/2", -0.01)
    assert ledger.anchors([], "s/1", "s/1") == {}
    assert ledger.anchors([one], "m/1", "s/1") == {"seed": "s/1"}
    assert ledger.anchors([one, two], "m/2", "s/1") == {"seed": "s/1", "best": "m/1"}
    assert ledger.anchors([_entry(1, "s/1", "m/1", -0.01)], "m/1", "s/1") == {"seed": "s/1"}
