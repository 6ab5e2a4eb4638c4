"""Named sets of games, and imports that keep a share under a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pickled_games import games_file

from respect_core.log.records import InteractionLog
from respect_core.measuring.labels import right_turns
from respect_core.scenarios.multiref.importers.games import read_games
from respect_core.training_data import curated
from tasks.games.importing import import_games
from tasks.support.workspace import Workspace, workspace


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return workspace(tmp_path / "run")


OPTIONS: dict[str, Any] = {"round": 5, "variant": "b-fft", "game_set": "held-out"}


def _ids(place: Workspace, name: str = "held-out") -> list[str]:
    return [log.interaction_id for log in curated.read(place.open(), name)]


def test_a_share_of_an_import_is_kept_under_a_name_the_same_each_time(place: Workspace, tmp_path: Path) -> None:
    file = games_file(tmp_path, 60)
    imported = import_games(place, file, tmp_path, **OPTIONS, share=0.3)
    assert (imported.report.games, imported.report.turns, imported.report.set_aside) == (60, 120, 0)
    held = _ids(place)
    assert 8 <= len(held) <= 28 and (imported.held_now, imported.held_in_all) == (len(held), len(held))
    again = import_games(place, file, tmp_path, **OPTIONS, share=0.3)
    assert (again.held_now, again.held_in_all, _ids(place)) == (0, len(held), held)


def test_another_import_adds_to_a_set_and_frees_no_game(place: Workspace, tmp_path: Path) -> None:
    import_games(place, games_file(tmp_path, 40), tmp_path, **OPTIONS, share=0.5)
    held = _ids(place)
    import_games(place, games_file(tmp_path, 40), tmp_path, **OPTIONS, share=0.2)
    assert _ids(place) == held
    second = import_games(place, games_file(tmp_path, 60, first=40), tmp_path, **{**OPTIONS, "round": 6}, share=0.2)
    assert _ids(place)[: len(held)] == held
    assert (second.held_now, second.held_in_all) == (len(_ids(place)) - len(held), len(_ids(place)))
    assert curated.held_out(place.open(), "held-out") == sorted(_ids(place))


def test_a_share_that_holds_nothing_is_refused_before_anything_is_stored(place: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no games for the set 'held-out': raise the share"):
        import_games(place, games_file(tmp_path, 1), tmp_path, **OPTIONS, share=0.01)
    assert place.open().keys() in ([], ["users/key.json"])


@pytest.mark.parametrize(("first", "second"), [("d0", "validation"), ("validation", "d0")])
def test_no_game_is_trained_on_and_held_out(place: Workspace, tmp_path: Path, first: str, second: str) -> None:
    file = games_file(tmp_path, 20)
    import_games(place, file, tmp_path, **{**OPTIONS, "game_set": first})
    with pytest.raises(ValueError, match="would be in 'd0', which is trained on, and held out in 'validation'"):
        import_games(place, file, tmp_path, **{**OPTIONS, "game_set": second})
    assert curated.names(place.open()) == [first]


def test_turns_to_validate_on_are_the_right_ones(place: Workspace, tmp_path: Path) -> None:
    file = games_file(tmp_path, 1)
    logs = [each for each in read_games(file, 0, "hh") if isinstance(each, InteractionLog)]
    wrong = logs[0].model_copy(update={"interaction_id": "wrong"})
    assert wrong.outcome is not None
    wrong = wrong.model_copy(update={"outcome": wrong.outcome.model_copy(update={"targets": wrong.context[7:]})})
    curated.write(place.open(), "validation", [*logs, wrong])
    found = curated.read(place.open(), "validation")
    assert found == [*logs, wrong]
    assert right_turns(found) == {("game-0", 0), ("game-0", 1)}


def test_an_utterance_with_odd_line_breaks_survives(place: Workspace, tmp_path: Path) -> None:
    log = next(each for each in read_games(games_file(tmp_path, 1), 0, "hh") if isinstance(each, InteractionLog))
    turn = log.turns[0].model_copy(update={"utterance": "one\u2028two\x85three\nfour"})
    log = log.model_copy(update={"turns": [turn, *log.turns[1:]]})
    curated.write(place.open(), "odd", [log])
    assert curated.read(place.open(), "odd") == [log]


def test_a_set_that_is_not_there_is_named_with_those_there_are(place: Workspace) -> None:
    curated.write(place.open(), "d0", [])
    with pytest.raises(ValueError, match=r"no game set 'absent'.*there are: d0.*--game-set"):
        curated.read(place.open(), "absent")


def test_games_of_every_set_but_d0_are_held_out(place: Workspace, tmp_path: Path) -> None:
    logs = [each for each in read_games(games_file(tmp_path, 3), 0, "hh") if isinstance(each, InteractionLog)]
    for name, log in zip(("d0", "validation", "held-out"), logs, strict=True):
        curated.write(place.open(), name, [log])
    assert curated.names(place.open()) == ["d0", "held-out", "validation"]
    assert curated.held_out(place.open(), "validation") == ["game-1", "game-2"]
