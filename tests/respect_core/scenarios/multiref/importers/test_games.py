"""The authors' games: small made-up ones, and the real example where it is present."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from samples import contents

from respect_core.log.export import export
from respect_core.log.log import Problem
from respect_core.log.pseudonyms import pseudonym
from respect_core.log.records import InteractionLog, PolicyIdentity
from respect_core.scenarios.multiref.importers.games import import_games, read_games
from respect_core.scenarios.multiref.importers.plain_pickle import PickleError
from respect_core.store.base import Store, StoreError

IMAGES = [f"page{number}-{number}" for number in range(10)]


def raw_game(game_id: str = "G1") -> dict[str, Any]:
    return {
        "_id": game_id,
        "created_at": "2024-09-12 20:52:57",
        "speaker": "worker",
        "end": "successful",
        "context": [f"{image}.png" for image in reversed(IMAGES)],
        "context_listener": [f"{image}.png" for image in IMAGES],
        "targets": ["page1-1.png", "page3-3.png"],
        "chat": ["a boat", "no, the other", "hm", "a cup"],
        "clicks": [["page2-2.png"], ["page1-1.svg"], ["page1-1.png"], ["page3-3.png", "page1-1.png"]],
        "turnList": [{"secUntilSubmit": 7.5}, {"secUntilSubmit": np.float64("nan")}, {}],
        "msg": np.float64(2.1),
    }


def write(path: Path, games: dict[str, Any]) -> Path:
    path.write_bytes(pickle.dumps(games))
    return path


@pytest.fixture
def tangrams(tmp_path: Path) -> Path:
    folder = tmp_path / "svg"
    folder.mkdir()
    for image in IMAGES:
        (folder / f"{image}.svg").write_text("<svg/>")
    return folder


def render(path: Path) -> Image.Image:
    return Image.new("RGBA", (8, 8), (int(path.stem[-1]), 0, 0, 255))


def test_a_game_as_a_log(tmp_path: Path) -> None:
    policy = PolicyIdentity(name="respect.b-fft", version="4")
    (log,) = read_games(write(tmp_path / "games.pkl", {"G1": raw_game()}), 5, "b-fft", policy)
    assert isinstance(log, InteractionLog)
    assert (log.interaction_id, log.round, log.variant, log.policy) == ("G1", 5, "b-fft", policy)
    assert (log.user, log.started_at, log.context) == (pseudonym("worker"), "2024-09-12T20:52:57", IMAGES)
    assert [turn.action for turn in log.turns] == ["select C", "deselect C select B", "nothing", "select D"]
    assert [turn.seconds for turn in log.turns] == [7.5, None, None, None]
    assert [turn.probability for turn in log.turns] == [None] * 4
    assert log.outcome is not None
    assert (log.outcome.targets, log.outcome.success) == (["page1-1", "page3-3"], True)


BROKEN: list[tuple[str, Any, str, str]] = [
    ("_id", None, "_id", "absent"),
    ("_id", 7, "_id", "no text"),
    ("created_at", "yesterday", "created_at", "ISO 8601"),
    ("end", "abandoned", "end", "neither successful nor unsuccessful"),
    ("end", ["successful"], "end", "neither"),
    ("chat", None, "chat", "absent"),
    ("chat", ["a", "b", "c"], "clicks", "4 selections for 3 utterances"),
    ("chat", ["a", " ", "c", "d"], "chat[1]", "utterance is empty"),
    ("chat", ["a", "\u200b", "c", "d"], "chat[1]", "utterance is empty"),
    ("chat", ["a", "b", "\ufdfa" * 500, "d"], "chat[2]", "more than 500 characters in normal form"),
    ("chat", ["a", "b", "x" * 501, "d"], "chat[2]", "more than 500 characters"),
    ("chat", "abcd", "chat", "not a list of strings"),
    ("clicks", 3, "clicks", "no list of selections"),
    ("clicks", [["page1-1.png"], [5], [], []], "clicks[1]", "not a list of strings"),
    ("clicks", [["page99-9.png"], [], [], []], "clicks[0]", "'page99-9' is not in context_listener"),
    ("clicks", [["../../etc.png"], [], [], []], "clicks[0]", "no image id"),
    ("context_listener", ["page1-1.png"], "clicks[0]", "not in context_listener"),
    ("context_listener", [*(f"{i}.png" for i in IMAGES), "more.png"], "context", "at most 10"),
    ("context_listener", [*(f"{i}.png" for i in IMAGES[:9]), "page1-1.png"], "context", "twice"),
    ("targets", ["page99-9.png"], "outcome.targets", "not in context"),
    ("targets", None, "targets", "absent"),
    ("speaker", None, "speaker", "absent"),
]


@pytest.mark.parametrize(("name", "value", "field", "reason"), BROKEN)
def test_a_broken_game_is_a_problem(tmp_path: Path, name: str, value: Any, field: str, reason: str) -> None:
    broken = raw_game("G2") | {name: value}
    if value is None:
        del broken[name]
    path = write(tmp_path / "games.pkl", {"G1": raw_game("G1"), "G2": broken, "G3": raw_game("G3")})
    first, problem, last = read_games(path, 5, "b-fft")
    assert isinstance(first, InteractionLog) and isinstance(last, InteractionLog)
    assert isinstance(problem, Problem)
    assert (problem.object, problem.record, problem.field) == ("games.pkl", "game 'G2'", field)
    assert reason in problem.reason and problem.remedy


def test_a_game_that_is_none_and_one_that_comes_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "games.pkl", {"G1": raw_game("G1"), "G2": raw_game("G1"), "G3": "lost"})
    _, twice, none = read_games(path, 5, "b-fft")
    assert isinstance(twice, Problem) and isinstance(none, Problem)
    assert (twice.field, "'G1' is taken" in twice.reason) == ("_id", True)
    assert "a str, not a dict" in none.reason
    with pytest.raises(PickleError, match="holds a list; expected a dict"):
        list(read_games(write(tmp_path / "list.pkl", [raw_game()]), 5, "b-fft"))  # type: ignore[arg-type]


def test_import(store: Store, tmp_path: Path, tangrams: Path) -> None:
    failed = raw_game("G2") | {"end": "unsuccessful"}
    broken = raw_game("G3") | {"chat": []}
    undrawn = copy.deepcopy(raw_game("G4"))
    undrawn["context_listener"][9] = "unheard-of.png"
    path = write(tmp_path / "games.pkl", {"G1": raw_game(), "G2": failed, "G3": broken, "G4": undrawn})
    report = import_games(store, path, tangrams, 5, "b-fft", render=render)
    assert (report.games, report.turns, report.turns_with_followup, report.successes) == (2, 8, 6, 1)
    assert (report.set_aside, report.images, report.new_images) == (2, 10, 10)
    assert report.problems is not None
    problems = [json.loads(each) for each in store.read(report.problems).splitlines()]
    assert [(each["record"], each["field"]) for each in problems] == [
        ("game 'G3'", "clicks"),
        ("game 'G4'", "context_listener"),
    ]
    assert "'unheard-of' has no drawing in svg/" in problems[1]["reason"]
    before = contents(store)
    assert import_games(store, path, tangrams, 5, "b-fft", render=render).new_images == 0
    assert contents(store) == before, "importing again changes nothing"
    assert (export(store, 5).games, export(store, 5).set_aside) == (2, 0)
    assert report.problems in store.keys("set_aside/"), "an export leaves what an import set aside"


def test_import_without_tangrams(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "games.pkl", {"G1": raw_game()})
    with pytest.raises(StoreError, match="no such folder; give the folder of KILOGRAM's SVG files"):
        import_games(store, path, tmp_path / "absent", 5, "b-fft", render=render)
    assert store.keys() == []


def test_the_real_games(store: Store, shared: Path) -> None:
    """200 games of round 5 (B-FFT), counted by hand: 1,309 turns, 1,109 with a follow-up, 167 successes."""
    path, tangrams = shared / "data/respect_sep12/games.pkl", shared / "data/kilogram/svg"
    report = import_games(store, path, tangrams, 5, "b-fft", render=lambda _: Image.new("1", (1, 1)))
    assert (report.games, report.turns, report.turns_with_followup) == (200, 1309, 1109)
    assert (report.successes, report.set_aside) == (167, 0)
    exported = export(store, 5)
    assert (exported.games, exported.turns, exported.turns_with_followup, exported.set_aside) == (200, 1309, 1109, 0)
