"""`respect import released`, `annotate sample`, `annotate import` and `export-released`, one after the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from released_rows import IMAGES, released, write
from typer.testing import CliRunner

from deployments.cli import main
from respect_core.measuring.human_eval import read_annotated
from respect_core.store.open import open_store

SQUARES = "".join(f'<polygon id="{n}" points="{n} 0 {n + 1} 0 {n + 1} 1 {n} 1"/>' for n in range(1, 8))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the dataset in data/ and drawings in svg/."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data", released())
    (tmp_path / "svg").mkdir()
    for image in IMAGES:
        drawing = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">{SQUARES}</svg>'
        (tmp_path / "svg" / image).with_suffix(".svg").write_text(drawing)
    return tmp_path


def respect(*command: str, code: int = 0) -> str:
    result = CliRunner().invoke(main.app, list(command))
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_the_commands(here: Path) -> None:
    said = respect("import", "released", "data", "--tangrams", "svg")
    assert "6 games, 21 turns, 18 with p, 5 won; 5 annotations; feedback on 2 turns (binary), 1 turns (ternary)" in said
    sampled = ["--round", "1", "--variant", "b-fft", "--run", "released", "--out", "tasks.jsonl"]
    said = respect("annotate", "sample", *sampled)
    assert "2 games of 6 turns to annotate, 1 of them by three annotators" in said
    tasks = [json.loads(line) for line in Path("tasks.jsonl").read_text().splitlines()]
    answers = [
        {name: task[name] for name in ("interaction_id", "round", "variant")}
        | {
            "turn": turn["turn"],
            "annotator": "someone",
            "intended": turn["action"],
            "satisfaction": "no" if turn["follow_up"] else None,
        }
        for task in tasks
        for turn in task["turns"]
    ]
    answers[0]["turn"] = 99
    Path("answers.jsonl").write_text("\n".join(map(json.dumps, answers)))
    said = respect("annotate", "import", "answers.jsonl", "--run", "released")
    assert "5 answers 1 answers set aside, with reasons, in set_aside/answers/import-" in said
    assert len(read_annotated(open_store(here / "runs/released/store"), 1, "b-fft")) == 10
    said = respect("export-released", "out", "--run", "released")
    assert "6 rows of interaction" in said
    assert "10 rows of human_eval" in said


def test_the_dataset_alone_gives_tables(here: Path) -> None:
    said = respect("import", "released", "data")
    assert "6 games, 21 turns" in said and "10 images without a picture: tables are whole, but no games are" in said
    respect("report", "--study", "released", "--out", "report")
    tables = {path.name.partition("-")[2].partition("-")[0] for path in Path("report/tables").iterdir()}
    assert tables == set("23456789")
    assert "<article" not in Path("report/index.html").read_text()


def test_failures_are_told_in_one_message(here: Path) -> None:
    said = respect("import", "released", "nowhere", "--tangrams", "svg", code=1)
    assert "error: nowhere: no such folder; give the folder of the dataset's Parquet files" in said
    Path("runs/empty").mkdir()
    said = respect("annotate", "sample", "--round", "3", "--variant", "b-fft", "--run", "empty", code=1)
    assert "no turns of round 3, variant 'b-fft'; import or export them first" in said
