"""The released dataset: files of exactly its schema, made of known and made-up rows, and of the real games."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from released_rows import IMAGES, KNOWN, P, Rows, released, write
from samples import contents, game, with_images

from respect_core.log.export import export, export_everything
from respect_core.log.log import append_logs
from respect_core.log.pseudonyms import pseudonym
from respect_core.log.records import PolicyIdentity
from respect_core.measuring.human_eval import read_annotated
from respect_core.scenarios.multiref.importers.games import import_games
from respect_core.scenarios.multiref.importers.released import ReleasedReport, import_released
from respect_core.scenarios.multiref.importers.released_files import HubDataset, ReleasedError, find
from respect_core.scenarios.multiref.importers.released_schema import SCHEMAS, export_released
from respect_core.store.base import Store
from respect_core.store.open import open_store
from respect_core.store.tables import read_table, write_partition


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def tangrams(tmp_path: Path) -> Path:
    folder = tmp_path / "svg"
    folder.mkdir()
    for image in IMAGES:
        (folder / image).with_suffix(".svg").write_text("<svg/>")
    return folder


def render(path: Path) -> Image.Image:
    return Image.new("RGBA", (8, 8))


def read_in(store: Store, directory: Path, tangrams: Path) -> ReleasedReport:
    return import_released(store, str(directory), tangrams, render=render)


def tables(store: Store) -> dict[str, list[dict[str, Any]]]:
    """The rows of our tables, in order; NaN, which is no score, as None."""
    found = {}
    for name in ("turns", "outcomes", "annotations", "feedback"):
        rows = read_table(store, name).to_pylist()
        for row in rows:
            if "score" in row:
                row["score"] = None if row["score"] != row["score"] else row["score"]
        found[name] = sorted(rows, key=lambda row: json.dumps(row, default=str))
    return found


def problems(store: Store, report: ReleasedReport) -> list[dict[str, str]]:
    assert report.problems is not None
    return [json.loads(line) for line in store.read(report.problems).splitlines()]


def test_games_turns_annotations_and_feedback(store: Store, tangrams: Path, tmp_path: Path) -> None:
    report = read_in(store, write(tmp_path / "data", released()), tangrams)
    assert dict(report.games) == {
        (0, "seed"): 1,
        (1, "b-fft"): 2,
        (5, "b-fft+"): 1,
        (6, "control"): 1,
        (6, "hh"): 1,
    }
    assert (report.turns, report.successes, report.with_probability, report.set_aside) == (21, 5, 18, 0)
    assert (report.without_turn_row, report.ended_otherwise, report.unanswered) == (0, 0, 0)
    turns = {(row["interaction_id"], row["turn"]): row for row in read_table(store, "turns").to_pylist()}
    known = turns[KNOWN, 0]
    assert (known["round"], known["variant"], known["action"], known["probability"]) == (0, "seed", "select E", P)
    assert turns[KNOWN, 9]["follow_up"] is None
    assert turns["won", 2]["action"] == "deselect B"
    assert turns["won", 2]["state"] == "BD"
    assert turns["won", 2]["context"] == [image.removesuffix(".png") for image in IMAGES]
    assert turns["won", 2]["follow_up"] == "utterance 3"
    assert turns["other", 1]["action"] == "nothing"
    assert turns["people", 0]["probability"] is None
    assert turns["enhanced", 0]["probability"] is None  # -3 marks a lost one
    outcomes = {row["interaction_id"]: row for row in read_table(store, "outcomes").to_pylist()}
    assert (outcomes[KNOWN]["turns"], outcomes[KNOWN]["success"], outcomes[KNOWN]["started_at"]) == (
        10,
        False,
        "2024-07-18",
    )
    annotated = [
        (row.turn, row.annotator, row.intended, row.satisfaction, row.correct)
        for row in read_annotated(store, 1, "b-fft")
    ]
    assert annotated == [
        (0, "annotator-1", "select B", "yes", True),
        (0, "annotator-2", "select F", "incorrect", False),
        (0, "annotator-3", "select B C", "partial", False),
        (2, "annotator-1", "deselect D", "no", False),
        (3, "annotator-1", "select B F", None, True),
    ]
    feedback = read_table(store, "feedback").to_pylist()
    assert [(row["turn"], row["decoder"], row["label"]) for row in feedback] == [
        (0, "binary", -1),
        (0, "ternary", 0),
        (2, "binary", 1),
    ]
    assert dict(report.feedback) == {"binary": 2, "ternary": 1}
    assert (report.annotations, report.correctness_differs, report.labels_differ) == (5, 0, 0)


def test_import_export_import_gives_equal_tables(store: Store, tangrams: Path, tmp_path: Path) -> None:
    read_in(store, write(tmp_path / "data", released(), shards=3, flat=True), tangrams)
    exported = export_released(store, tmp_path / "again")
    assert dict(exported.rows) == {name: len(rows) for name, rows in released().items()}
    again = open_store(tmp_path / "store-again")
    assert read_in(again, tmp_path / "again", tangrams).set_aside == 0
    assert tables(again) == tables(store)
    written = {name: pq.read_table(tmp_path / "again" / name) for name in SCHEMAS}
    assert {name: table.schema for name, table in written.items()} == SCHEMAS
    turn = next(row for row in written["turn"].to_pylist() if row["game_turn_id"] == "won_2")
    original = next(row for row in released()["turn"] if row["game_turn_id"] == "won_2")
    assert turn == original


def test_without_drawings_the_tables_are_the_same(store: Store, tangrams: Path, tmp_path: Path) -> None:
    """And stay so in later exports; pictures come with a later import."""
    data, pictured = write(tmp_path / "data", released()), open_store(tmp_path / "pictured")
    found, plain = read_in(pictured, data, tangrams), import_released(store, str(data))
    assert (found.without_picture, plain.without_picture) == (0, 10)
    assert replace(plain, without_picture=0) == found and tables(store) == tables(pictured)
    before = contents(store)
    export_everything(store)
    assert contents(store) == before and not list(store.keys("images/"))
    assert read_in(store, data, tangrams) == found
    assert contents(store) == before | contents(store, "images/")


def test_importing_again_changes_nothing(store: Store, tangrams: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data", released())
    report = read_in(store, data, tangrams)
    before = contents(store)
    assert read_in(store, data, tangrams) == report
    assert contents(store) == before


def broken(change: str) -> Rows:
    """The released rows with one thing wrong."""
    rows = copy.deepcopy(released())
    won = [row for row in rows["turn"] if row["game_id"] == "won"]
    match change:
        case "an unknown policy":
            rows["interaction"][2]["policy_name"] = "ppo"
        case "a turn twice":
            rows["turn"].append(won[1] | {"prob_action": 0.9})
        case "a turn without its game":
            rows["turn"].append(won[1] | {"game_id": "nobody"})
        case "a turn beyond its game":
            rows["turn"].append(won[1] | {"turn_id": 7})
        case "other clicks":
            won[1]["selected"] = [IMAGES[8]]
        case "another state":
            won[1]["currently_selected"] = []
        case "a game twice":
            rows["interaction"].append(rows["interaction"][1])
        case "no drawing":
            rows["interaction"][2]["context"] = ["page99-9.png", *IMAGES[1:]]
            for row in rows["turn"]:
                if row["game_id"] == "other":
                    row["context"] = ["page99-9.png", *IMAGES[1:]]
        case "other images":
            rows["interaction"][2]["context"] = ["page99-9.png", *IMAGES[1:]]
        case "fewer clicks":
            rows["interaction"][2]["clicks"] = []
        case "no satisfaction of that name":
            rows["human_eval"][0]["feedback"] = "maybe"
        case "an annotation without its turn":
            rows["human_eval"][0]["turn_id"] = 4
        case "a label of three in two":
            rows["feedback_decoder_binary"][0]["predictions"] = 0
        case "feedback twice":
            rows["feedback_decoder_ternary"] *= 2
        case "feedback without its turn":
            rows["feedback_decoder_ternary"][0]["game_turn_id"] = "won_9"
    return rows


@pytest.mark.parametrize(
    ("change", "file", "record", "fields", "games"),
    [
        ("an unknown policy", "interaction", "row 3", ["policy_name", "game_id", "game_id"], 5),
        ("a turn twice", "turn", "row 22", ["turn_id"], 6),
        ("a turn without its game", "turn", "row 22", ["game_id"], 6),
        ("a turn beyond its game", "turn", "row 22", ["turn_id"], 6),
        ("other clicks", "turn", "row 12", ["selected"], 6),
        ("another state", "turn", "row 12", ["currently_selected"], 6),
        ("a game twice", "interaction", "row 7", ["game_id"], 6),
        ("no drawing", "interaction", "row 3", ["context", "game_id", "game_id"], 5),
        ("other images", "interaction", "row 3", ["context", "game_id", "game_id"], 5),
        ("fewer clicks", "interaction", "row 3", ["clicks", "game_id", "game_id"], 5),
        ("no satisfaction of that name", "human_eval", "row 1", ["feedback"], 6),
        ("an annotation without its turn", "human_eval", "row 1", ["turn_id"], 6),
        ("a label of three in two", "feedback_decoder_binary", "row 1", ["predictions"], 6),
        ("feedback twice", "feedback_decoder_ternary", "row 2", ["game_turn_id"], 6),
        ("feedback without its turn", "feedback_decoder_ternary", "row 1", ["turn_id"], 6),
    ],
)
def test_a_row_that_cannot_be_used_is_set_aside(
    store: Store, tangrams: Path, tmp_path: Path, change: str, file: str, record: str, fields: list[str], games: int
) -> None:
    """A game that is set aside leaves its turns without a game."""
    report = read_in(store, write(tmp_path / "data", broken(change)), tangrams)
    found = problems(store, report)
    assert found[0]["object"] == f"{file}/train-00000-of-00001.parquet"
    assert found[0]["record"] == record
    assert [each["field"] for each in found] == fields
    assert all(each["reason"] and each["remedy"] for each in found)
    assert sum(report.games.values()) == games
    if file == "turn":  # the first of several, and no p of a turn that is not the game's
        turns = {
            row["turn"]: row for row in read_table(store, "turns", [1]).to_pylist() if row["interaction_id"] == "won"
        }
        assert turns[1]["probability"] == (None if change in ("other clicks", "another state") else 0.25)


def test_what_the_files_hold_beside_the_plain(store: Store, tangrams: Path, tmp_path: Path) -> None:
    rows = released()
    won = rows["interaction"][1]
    won |= {"end": "idle", "chat": [*won["chat"], "hello?"], "speaker": "a worker"}
    rows["turn"] = [row for row in rows["turn"] if row["game_turn_id"] != "won_3"]
    rows["turn"][-4]["selected"] = ["page2-2.png", "page2-2.png"]  # of game other: one image, named twice
    extra = next(row for row in rows["turn"] if row["game_turn_id"] == "won_1")
    extra["selected"] = [IMAGES[1], IMAGES[3]]  # B was selected already: the letter had no effect
    report = read_in(store, write(tmp_path / "data", rows), tangrams)
    assert (report.ended_otherwise, report.unanswered, report.without_turn_row) == (1, 1, 1)
    turns = {(row["interaction_id"], row["turn"]): row for row in read_table(store, "turns").to_pylist()}
    assert turns["won", 1]["action"] == "select D"
    assert turns["won", 1]["probability"] == 0.25
    assert turns["won", 3]["probability"] is None
    assert turns["won", 3]["user"] == pseudonym("a worker")
    outcomes = {row["interaction_id"]: row for row in read_table(store, "outcomes").to_pylist()}
    assert outcomes["won"]["success"] is False


def test_absent_columns_and_other_types(store: Store, tangrams: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data", released())
    path = data / "turn" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["prob_action"]), path)
    with pytest.raises(ReleasedError, match=r"turn/train-.*: column 'prob_action' of 'turn' is absent"):
        read_in(store, data, tangrams)
    number = table.schema.get_field_index("round")
    pq.write_table(table.set_column(number, "round", pa.array(["1"] * len(table))), path)
    with pytest.raises(ReleasedError, match="column 'round' of 'turn' holds string; expected int64"):
        read_in(store, data, tangrams)
    path.write_bytes(b"PAR1")
    with pytest.raises(ReleasedError, match="download it again"):
        read_in(store, data, tangrams)
    path.unlink()
    with pytest.raises(ReleasedError, match="no files of the configuration 'turn'"):
        read_in(store, data, tangrams)
    assert store.keys("turns/") == []


def test_types_that_other_writers_choose(store: Store, tangrams: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data", released())
    path = data / "interaction" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    wider = {"round": pa.int32(), "date": pa.date32(), "chat": pa.large_list(pa.large_string())}
    fields = [field.with_type(wider.get(field.name, field.type)) for field in table.schema]
    pq.write_table(table.cast(pa.schema(fields)), path)
    assert read_in(store, data, tangrams).set_aside == 0
    assert read_table(store, "outcomes", [0])["started_at"].to_pylist() == ["2024-07-18"]


def test_a_damaged_column_of_the_last_configuration_stops_it_before_anything_is_stored(
    store: Store, tangrams: Path, tmp_path: Path
) -> None:
    data = write(tmp_path / "data", released())
    path = data / "feedback_decoder_ternary" / "train-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["predictions"]), path)
    with pytest.raises(ReleasedError, match="column 'predictions' of 'feedback_decoder_ternary' is absent"):
        read_in(store, data, tangrams)
    assert contents(store) == {}


def test_through_datasets_as_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the dataset's card is loaded by `datasets` as the hub's is."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = write(tmp_path / "data", released(), shards=2)
    listed = "".join(f"- config_name: {name}\n  data_files: {name}/*.parquet\n" for name in SCHEMAS)
    (data / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")
    names = datasets.get_dataset_config_names(str(data))
    hub, folder = HubDataset(str(data), names), find(str(data))
    columns = ["game_id", "turn_id", "context", "prob_action"]
    hub.check("turn")
    rows = [[record.row for record in source.records("turn", columns)] for source in (hub, folder)]
    assert len(rows[0]) == 21
    assert rows[0] == rows[1]
    with pytest.raises(ReleasedError, match="the hub did not give it"):
        hub.check("nothing")


def test_the_hub_without_the_package(
    store: Store, tangrams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ReleasedError, match="which is not installed; pip install"):
        import_released(store, "owner/name", tangrams)
    with pytest.raises(ReleasedError, match="no such folder; give the folder"):
        import_released(store, str(tmp_path / "absent"), tangrams)


def test_feedback_of_another_origin_is_kept(store: Store, tangrams: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data", released())
    read_in(store, data, tangrams)
    rows = read_table(store, "feedback", [1], ["b-fft"])
    write_partition(store, "feedback", 1, "b-fft", rows)
    with pytest.raises(ReleasedError, match="feedback of another origin, which is kept"):
        read_in(store, data, tangrams)


def test_a_variant_that_the_released_schema_cannot_name(store: Store, tangrams: Path, tmp_path: Path) -> None:
    append_logs(with_images(store), [game(variant="dpo")])
    export(store, 5)
    with pytest.raises(ValueError, match="variant 'dpo' has no name in the released schema"):
        export_released(store, tmp_path / "out")


def test_the_real_games_through_the_released_schema(store: Store, tmp_path: Path, shared: Path) -> None:
    drawings = shared / "data/kilogram/svg"
    import_games(
        store,
        shared / "data/respect_sep12/games.pkl",
        drawings,
        5,
        "b-fft+",
        policy=PolicyIdentity(name="respect.b-fft", version="1"),
        render=render,
    )
    export(store, 5)
    exported = export_released(store, tmp_path / "data")
    again = open_store(tmp_path / "again")
    shutil.copytree(Path(store.uri, "images"), Path(again.uri, "images"))  # drawn once
    report = read_in(again, tmp_path / "data", drawings)
    assert (sum(report.games.values()), report.successes, report.set_aside) == (200, 167, 0)
    assert report.turns == exported.rows["turn"] == read_table(store, "turns").num_rows
    exact = ["interaction_id", "turn", "context", "state", "utterance", "action", "follow_up", "user"]
    assert read_table(again, "turns", columns=exact) == read_table(store, "turns", columns=exact)
    export_released(again, tmp_path / "data-again")
    for name in SCHEMAS:
        first, second = (pq.read_table(tmp_path / each / name) for each in ("data", "data-again"))
        lost = ["len"] if name == "interaction" else []  # seconds per turn are not in the released schema
        assert second.drop_columns(lost) == first.drop_columns(lost)
