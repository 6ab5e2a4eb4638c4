"""Games of the gate, made where people are simulated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from respect_core.profiles import home
from respect_core.training_data import curated
from tasks.games.people import prepare_game_sets
from tasks.release.contest import prepare_gate_games
from tasks.support.workspace import workspace


def test_the_gates_games_are_its_own_and_more_are_added(tmp_path: Path) -> None:
    place, profile = workspace(tmp_path), replace(home(), seed_games=3, validation_games=20)
    prepare_game_sets.fn(place, profile, curated.VALIDATION)
    prepare_gate_games(place, profile, curated.GATE, 12)
    first = curated.read(place.open(), curated.GATE)
    prepare_gate_games(place, profile, curated.GATE, 10)
    assert curated.read(place.open(), curated.GATE) == first and len(first) == 12
    prepare_gate_games(place, profile, curated.GATE, 15)
    more = curated.read(place.open(), curated.GATE)
    assert more[:12] == first and len(more) == 15
    others = [log for name in (curated.D0, curated.VALIDATION) for log in curated.read(place.open(), name)]
    assert not {log.interaction_id for log in more} & {log.interaction_id for log in others}


def test_nothing_is_made_where_people_are_real_or_the_set_is_somebodys(tmp_path: Path) -> None:
    place = workspace(tmp_path)
    prepare_gate_games(place, replace(home(), simulated_people=False), curated.GATE, 3)
    prepare_gate_games(place, home(), "mine", 3)
    assert curated.names(place.open()) == []
