"""What is gathered from a store, against counting by hand."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from reports import annotations, deployment, feedback, figures, lost, shifted, won
from samples import IMAGES, with_images

from respect_core.log.export import export_everything
from respect_core.log.log import append_logs
from respect_core.measuring.cell import PolicyRound, measure_partition
from respect_core.measuring.evidence import gather, learned_from, rounds_of, shared_round_0
from respect_core.store.base import Store
from respect_core.store.manifests import Partition
from respect_core.store.open import open_store


@pytest.fixture
def played(tmp_path: Path) -> Store:
    return deployment(tmp_path / "store")


def test_a_deployment_by_hand(played: Store) -> None:
    found = gather(played, "mine", systems=["b-fft"])
    assert list(found.cells) == ["b-fft", "control", "hh"] and rounds_of(found.cells) == [0, 1]
    assert (found.games, found.users, found.turns) == (14, 2, 3 * (1 + 3 + 1 + 2) + 4 * (3 + 1 + 3))
    first, last = (found.cells["b-fft"][number].figures for number in (0, 1))
    assert first and last and (first.success.value, last.success.value) == (0.25, 0.75)
    assert found.cells["control"][0] is found.cells["b-fft"][0] and 0 not in found.cells["hh"]
    language = found.cells["control"][1].language
    assert language and (language.resets, language.try_agains) == (3, 3 + 1)  # "the other one" in the game that was won
    assert found.learned_from == {"b-fft": {0: 4, 1: 8}}
    assert found.decoders == ("SmolLM2 (0123456789ab)",) and found.first == "2026-01-02T03:04:05"


def test_policies_are_compared_on_the_contexts_of_both(played: Store) -> None:
    (only,) = gather(played, "mine").comparisons
    assert (only.round, only.policy, only.other) == (1, "b-fft", "control")
    # Games that were lost have the targets of games that were won, so all four contexts are shared.
    assert (only.result.contexts, only.result.wins, only.result.losses, only.result.ties) == (4, 2, 0, 2)
    assert only.result.success.value == 0.5


def test_games_of_a_context_played_again_are_averaged(played: Store) -> None:
    """B-FFT plays the contexts of g0 (won before) and g3 (lost before) once more: loses the one, wins the other."""
    again = [(lost(0, 1, "b-fft"), 0, "a0"), (won(3, 1, "b-fft"), 3, "z3")]
    append_logs(played, [shifted(log, by).model_copy(update={"interaction_id": key}) for log, by, key in again])
    export_everything(played)
    (only,) = gather(played, "mine").comparisons
    # A game that was won has 3 turns and 3 of 4 clicks right, one that was lost 4 turns and 2 of 4.
    result = only.result
    assert (result.contexts, result.wins, result.losses, result.ties) == (4, 3, 1, 0)
    assert result.success.value == (1 / 2 + 1 + 1 + 1 / 2) / 4 - (1 + 0 + 0 + 0) / 4
    assert result.turns_per_game.value == (3.5 + 3 + 3 + 3.5) / 4 - (3 + 4 + 4 + 4) / 4
    assert result.click_accuracy and result.click_accuracy.value == (2.5 + 3 + 3 + 2.5) / 16 - (3 + 2 + 2 + 2) / 16


def test_feedback_is_held_against_targets_where_nobody_annotated(played: Store) -> None:
    decoded = gather(played, "mine").cells["b-fft"][0].decoded
    assert set(decoded) == {"binary", "ternary"}
    binary = decoded["binary"]
    assert (binary.negative, binary.neutral, binary.positive, binary.against) == (2, 0, 2, "targets")
    # g0: select C (wrong), deselect C select D (right); g1: select C (wrong), deselect C (right)
    assert binary.confusion and binary.confusion.matrix == ((0.5, 0.0), (0.0, 0.0), (0.0, 0.5))


def test_annotations_take_the_place_of_targets(played: Store) -> None:
    rows = [("g0", 0, "ann", "select D", "no"), ("g0", 1, "ann", "deselect C select D", "partial")]
    annotations(played, 0, "seed", [*rows, ("g0", 0, "bob", "select C", "yes"), ("gone", 0, "ann", "nothing", None)])
    found = gather(played, "mine")
    cell = found.cells["b-fft"][0]
    assert cell.decoded["binary"].against == "annotations"
    assert cell.decoded["binary"].confusion and cell.decoded["binary"].confusion.turns == 2
    assert cell.turn_figures and cell.turn_figures.turns == 2  # the first annotator's; one whose turn is gone is out
    assert cell.turn_figures.exact_match and cell.turn_figures.exact_match.value == 0.5
    assert found.agreement and found.agreement.turns == 0  # nobody is three


def test_labels_without_scores_have_no_calibration(played: Store) -> None:
    assert gather(played, "mine").cells["b-fft"][0].decoded["binary"].calibration
    feedback(played, 0, "seed", [("g0", 0, -1)], score=float("nan"))
    decoded = gather(played, "mine").cells["b-fft"][0].decoded["binary"]
    assert decoded.confusion and decoded.calibration is None


def test_the_last_round_to_read_can_be_said(played: Store) -> None:
    found = gather(played, "mine", systems=["b-fft", "t-kto"], up_to=0)
    assert rounds_of(found.cells) == [0] and list(found.cells) == ["b-fft", "t-kto"] and found.drift is None


def test_an_empty_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no games in the tables of .*; play or import some first"):
        gather(open_store(str(tmp_path)), "mine")


def test_round_0_is_shared_among_systems() -> None:
    seed, other = PolicyRound(figures(0.3)), PolicyRound(figures(0.8))
    cells = shared_round_0({"seed": {0: seed}, "b-fft+": {4: other}, "mine": {1: other}, "hh": {6: other}}, ["b-kto"])
    assert list(cells) == ["b-kto", "b-fft+", "hh", "mine"]
    assert {policy: sorted(by_round) for policy, by_round in cells.items()} == {
        "b-kto": [0],
        "b-fft+": [4],  # it branched off later
        "hh": [6],
        "mine": [0, 1],
    }
    assert shared_round_0({"seed": {0: seed}}) == {"seed": {0: seed}}


def test_the_enhanced_policy_learned_from_what_it_branched_off() -> None:
    games = {
        Partition(0, "seed"): 1,
        Partition(1, "b-fft"): 20,
        Partition(1, "t-rl"): 300,
        Partition(2, "b-fft"): 4000,
        Partition(2, "b-fft+"): 50000,
    }
    cells = {policy: {2: PolicyRound()} for policy in ("b-fft", "b-fft+", "control")}
    assert learned_from(games, cells) == {"b-fft": {2: 4021}, "b-fft+": {2: 50021}}
    assert learned_from(games, cells | {"b-fft+": {}}).keys() == {"b-fft"}  # before it branched off


def test_a_partition_leaves_little_in_memory(tmp_path: Path) -> None:
    store = with_images(open_store(str(tmp_path)), IMAGES)
    append_logs(store, [won(number, 0, "seed") for number in range(500)])
    export_everything(store)
    feedback(store, 0, "seed", [(f"g{number}", turn, 1) for number in range(500) for turn in range(2)])
    measure_partition(store, Partition(0, "seed"))  # what is imported and kept by then does not count
    tracemalloc.start()
    try:
        _, totals = measure_partition(store, Partition(0, "seed"))
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (totals.games, totals.turns) == (500, 1500)
    assert size / totals.turns < 60  # bytes, of which most are words for the drift


def test_every_order_of_a_table_gives_the_same_figures(tmp_path: Path) -> None:
    """Parts of a partition overlap, as do the conversations of two servers."""
    logs = [(won if number % 3 else lost)(number, 0, "seed") for number in range(12)]
    labels = [(f"g{number}", turn, 1 if number % 3 else -1) for number in range(12) for turn in range(2)]
    found = []
    for name, order in (("one", logs), ("two", [*reversed(logs)])):
        store = with_images(open_store(str(tmp_path / name)), IMAGES)
        append_logs(store, order)
        export_everything(store)
        feedback(store, 0, "seed", labels)
        found.append(measure_partition(store, Partition(0, "seed"))[0])
    assert found[0] == found[1]
