"""Which round comes next, and what it waits for."""

from __future__ import annotations

from pathlib import Path

from samples import game, with_images

from respect_core.log.export import export
from respect_core.log.log import append_logs
from respect_core.store.tables import read_table
from respect_core.variants import Variant
from tasks.round.export import export_interactions
from tasks.round.next_round import count_new, find_next_round, first_unfinished
from tasks.support.workspace import Workspace, workspace


def _with_games(place: Workspace, round: int, **counts: int) -> None:
    store = with_images(place.open())
    for name, count in counts.items():
        variant = name.replace("_", "-")
        append_logs(store, [game(f"{variant}-{round}-{n}", round=round, variant=variant) for n in range(count)])
    export(store, round)


def test_the_first_round_that_is_not_finished_comes_next() -> None:
    assert first_unfinished([2, 0, 1], [0]) == 1
    assert first_unfinished([0, 2], [0]) == 2  # a round in which nobody was deployed is no obstacle
    assert first_unfinished([0, 1], [0, 1]) is None
    assert first_unfinished([], []) is None


def test_a_round_is_found_by_its_interactions(tmp_path: Path) -> None:
    place = workspace(tmp_path)
    assert find_next_round.fn(place, list(Variant)) is None
    _with_games(place, 3, b_fft=1)
    assert find_next_round.fn(place, list(Variant)) == 3


def test_a_variants_own_interactions_count_and_in_their_absence_everyones(tmp_path: Path) -> None:
    """As `learning_partitions` has it; interactions of CONTROL and of people count for nobody."""
    place = workspace(tmp_path)
    _with_games(place, 1, b_fft=2, t_rl=5, control=9, hh=9)
    _with_games(place, 0, seed=7)
    new = count_new.fn(place, 1, [Variant.B_FFT, Variant.T_RL, Variant.B_KTO], 6)
    assert new.found == {"b-fft": 2, "t-rl": 5, "b-kto": 7}
    assert new.missing == {"b-fft": 4, "t-rl": 1}
    assert str(new).startswith("round 1: not enough new interactions, 6 are wanted") and "b-fft 4, t-rl 1" in str(new)
    assert not count_new.fn(place, 0, list(Variant), 7).missing


def test_a_game_that_ends_behind_its_rounds_export_is_in_the_next(tmp_path: Path) -> None:
    """People play on while a round learns."""
    place = workspace(tmp_path)
    _with_games(place, 0, b_fft=1)
    append_logs(place.open(), [game("late", round=0, variant="b-fft")])
    append_logs(place.open(), [game("of-the-next", round=1, variant="b-fft")])
    assert export_interactions.fn(place, 1).games == 1
    for table in ("turns", "outcomes"):
        found = read_table(place.open(), table, columns=["round", "interaction_id"])
        assert {*zip(found["round"].to_pylist(), found["interaction_id"].to_pylist(), strict=True)} == {
            (0, "b-fft-0-0"),
            (0, "late"),
            (1, "of-the-next"),
        }
