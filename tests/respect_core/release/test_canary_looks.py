"""Looks at canaries and refusals of candidates, on a directory and on a real S3 server."""

from __future__ import annotations

import pytest

from respect_core.release import canary_looks, ledger
from respect_core.release.canary import Decision, Figures, Judged
from respect_core.release.canary_power import planned
from respect_core.release.ledger import Action, Entry, LedgerError
from respect_core.store.base import Store

MODEL = "respect.b-fft"
FIGURES = Figures(
    conversations=10,
    candidate_conversations=2,
    users=2,
    candidate=0.5,
    deployed=0.5,
    difference=0.0,
    at_least=-0.4,
    at_most=0.4,
)


def _begun() -> Entry:
    canary = planned(0.1).model_copy(update={"candidate": f"{MODEL}/2", "adapter_hash": "two"})
    evidence = {"figures": {"exact_match": 0.6}}
    said = {"to_version": "respect.seed/1", "adapter_hash": "one", "actor": "ann", "evidence": evidence}
    return ledger.begin_canary([], MODEL, canary, **said)


def _judged(decision: Decision) -> Judged:
    return Judged(decision=decision, reason="because", figures=FIGURES)


def test_of_two_looks_of_a_number_the_first_counts(store: Store) -> None:
    begun = _begun()
    first = canary_looks.record(store, begun, 1, _judged(Decision.END))
    other = canary_looks.record(store, begun, 1, _judged(Decision.PROMOTE))
    assert other == first and canary_looks.read(store, MODEL) == [first]
    canary_looks.record(store, begun, 2, "it does not load")
    assert [(each.decision, each.reason) for each in canary_looks.read(store, MODEL)][1] == ("end", "it does not load")
    assert str(first).startswith(f"{MODEL}: look 1 at the canary of entry 1 at ") and str(first).endswith("because")
    store.delete(canary_looks.key(MODEL, 1))
    with pytest.raises(LedgerError, match="expected look 1"):
        canary_looks.read(store, MODEL)


def test_a_decision_makes_the_same_entry_whoever_carries_it_out(store: Store) -> None:
    begun = _begun()
    assert canary_looks.record(store, begun, 1, _judged(Decision.CONTINUE)).ending(begun) is None
    promoted = canary_looks.record(store, begun, 2, _judged(Decision.PROMOTE)).ending(begun)
    again = canary_looks.read(store, MODEL)[1].ending(begun)
    assert promoted is not None and again is not None and ledger.to_bytes(promoted) == ledger.to_bytes(again)
    assert (promoted.action, promoted.to_version, promoted.adapter_hash) == (Action.PROMOTE, f"{MODEL}/2", "two")
    assert promoted.evidence["figures"] == {"exact_match": 0.6}, "what the gate found is kept"
    assert promoted.evidence["canary"] == {"look": 2, "figures": FIGURES.model_dump(mode="json")}
    ended = canary_looks.record(store, begun, 3, _judged(Decision.END)).ending(begun)
    assert ended is not None and (ended.action, ended.to_version, ended.canary) == (Action.END, "respect.seed/1", None)


def test_the_first_refusal_stays(store: Store) -> None:
    begun = _begun()
    assert canary_looks.refused(store, begun) is None
    canary_looks.refuse(store, begun, "it does not load")
    canary_looks.refuse(store, begun, "it does not act")
    assert canary_looks.refused(store, begun) == "it does not load"
