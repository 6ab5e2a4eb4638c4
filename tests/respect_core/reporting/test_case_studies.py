"""Which games are drawn, and how they stand after each turn."""

from __future__ import annotations

from pathlib import Path

from reports import deployment

from respect_core.reporting.case_studies import choose, drawings
from respect_core.store.open import open_store


def test_games_are_chosen_by_what_happens_in_them(tmp_path: Path) -> None:
    store = deployment(tmp_path)
    chosen = choose(store)
    assert [case.heading.split(" (")[0] for case in chosen] == [
        "The speaker resets, an expression of frustration",
        "One context, the seed policy",
        "One context, the policy of round 1",
        "One context, a person",
    ]
    assert choose(store) == chosen  # the same every time
    reset, control, policy, _ = chosen
    assert (reset.policy, reset.round, reset.success) == ("b-fft", 1, False)
    assert (control.policy, control.success, policy.policy, policy.success) == ("control", False, "b-fft", True)
    assert control.steps[0].tiles[0].image == policy.steps[0].tiles[0].image


def test_tiles_after_each_turn(tmp_path: Path) -> None:
    case = choose(deployment(tmp_path))[0]  # select C; deselect C; select B; select D; targets A and D
    states = [
        "".join({"right": "+", "wrong": "x", "target": "o", "": "."}[t.state] for t in s.tiles) for s in case.steps
    ]
    assert [state[:4] for state in states] == ["o.xo", "o..o", "ox.o", "ox.+"]
    assert ["".join(t.letter for t in s.tiles if t.clicked) for s in case.steps] == ["C", "C", "B", "D"]


def test_each_drawing_is_there_once_and_absent_ones_are_left_out(tmp_path: Path) -> None:
    store = deployment(tmp_path)
    cases = choose(store)
    found = drawings(store, cases)
    assert len(found) == 9 and all(uri.startswith("data:image/png;base64,") for uri in found.values())
    store.delete("images/image-A.png")
    assert set(drawings(store, cases)) == set(found) - {"image-A"}


def test_nothing_to_draw_in_an_empty_store(tmp_path: Path) -> None:
    assert choose(open_store(str(tmp_path))) == []
