"""Named sets of games, and imports that keep a share under a name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from respect_core.importers.games import read_games
from respect_core.interaction import InteractionLog
from tasks import game_sets
from tasks.importing import import_games
from tasks.workspace import Workspace, workspace

TAN = "".join(f'<polygon id="{n}" points="{n} 0 {n + 1} 0 {n} 1"/>' for n in range(3, 8))
DRAWING = (
    '<svg viewBox="0 0 9 9" xmlns="http://www.w3.org/2000/svg"><polygon id="1" points="1 0 2 0 2 1 1 1"/>'
    f'<polygon id="2" points="2 0 3 0 4 1 3 1"/>{TAN}</svg>'
)


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return workspace(tmp_path / "run")


def _games(folder: Path, count: int) -> Path:
    images = [f"page-{number}.png" for number in range(10)]
    for name in images:
        (folder / name.replace(".png", ".svg")).write_text(DRAWING)
    games: dict[str, dict[str, Any]] = {
        f"game-{number}": {
            "_id": f"game-{number}",
            "created_at": "2024-09-12 20:52:57",
            "speaker": "somebody",
            "context_listener": images,
            "chat": ["the bird", "yes, the boat"],
            "clicks": [images[:1], images[:2]],
            "targets": images[:3],
            "end": "unsuccessful",
            "turnList": [],
        }
        for number in range(count)
    }
    (folder / "games.pkl").write_bytes(pickle.dumps(games))
    return folder / "games.pkl"


def test_a_share_of_an_import_is_kept_under_a_name_the_same_each_time(place: Workspace, tmp_path: Path) -> None:
    file = _games(tmp_path, 60)
    options = {"round": 5, "variant": "b-fft", "game_set": "held-out", "share": 0.3}
    report = import_games(place, file, tmp_path, **options)  # type: ignore[arg-type]  # one dict of several types
    assert (report.games, report.turns, report.set_aside) == (60, 120, 0)
    store = place.open()
    kept = [log.interaction_id for log in game_sets.read(store, "held-out")]
    assert 8 <= len(kept) <= 28

    import_games(place, file, tmp_path, **options)  # type: ignore[arg-type]  # as above
    assert [log.interaction_id for log in game_sets.read(store, "held-out")] == kept


def test_turns_to_validate_on_are_the_right_ones(place: Workspace, tmp_path: Path) -> None:
    file = _games(tmp_path, 1)
    logs = [each for each in read_games(file, 0, "hh") if isinstance(each, InteractionLog)]
    wrong = logs[0].model_copy(update={"interaction_id": "wrong"})
    assert wrong.outcome is not None
    wrong = wrong.model_copy(update={"outcome": wrong.outcome.model_copy(update={"targets": wrong.context[7:]})})
    game_sets.write(place.open(), "validation", [*logs, wrong])
    found, right = game_sets.curated(place.open(), "validation")
    assert found == [*logs, wrong]
    assert right == {("game-0", 0), ("game-0", 1)}


def test_an_utterance_with_odd_line_breaks_survives(place: Workspace, tmp_path: Path) -> None:
    log = next(each for each in read_games(_games(tmp_path, 1), 0, "hh") if isinstance(each, InteractionLog))
    turn = log.turns[0].model_copy(update={"utterance": "one\u2028two\x85three\nfour"})
    log = log.model_copy(update={"turns": [turn, *log.turns[1:]]})
    game_sets.write(place.open(), "odd", [log])
    assert game_sets.read(place.open(), "odd") == [log]


def test_a_set_that_is_not_there_is_named_with_those_there_are(place: Workspace) -> None:
    game_sets.write(place.open(), "d0", [])
    with pytest.raises(ValueError, match=r"no game set 'absent'.*there are: d0.*--game-set"):
        game_sets.read(place.open(), "absent")


def test_games_of_every_set_but_d0_are_held_out(place: Workspace, tmp_path: Path) -> None:
    logs = [each for each in read_games(_games(tmp_path, 3), 0, "hh") if isinstance(each, InteractionLog)]
    for name, log in zip(("d0", "validation", "held-out"), logs, strict=True):
        game_sets.write(place.open(), name, [log])
    assert game_sets.names(place.open()) == ["d0", "held-out", "validation"]
    assert game_sets.held_out(place.open(), "validation") == ["game-1", "game-2"]
