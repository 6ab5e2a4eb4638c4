"""Annotators' answers: one by one, from a file, and the table made from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from samples import contents, game, with_images

from respect_core.log.export import export
from respect_core.log.log import append_logs
from respect_core.measuring import human_eval
from respect_core.measuring.human_eval import (
    Answer,
    AnswerError,
    answered_turns,
    append_answers,
    build_annotations,
    import_answers,
    read_annotated,
)
from respect_core.store.base import Store
from respect_core.store.manifests import Manifest, read_manifest
from respect_core.store.open import open_store
from respect_core.store.tables import read_table


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def played(store: Store) -> Store:
    """Two games of three turns in the tables: select C; deselect C select D; select A."""
    append_logs(with_images(store), [game("g1"), game("g2")])
    export(store, 5)
    return store


def answer(turn: int = 0, **changes: Any) -> Answer:
    fields = {"interaction_id": "g1", "round": 5, "variant": "b-fft", "annotator": "ann", "intended": "select C"}
    satisfied = None if turn == 2 else "yes"
    return Answer(**(fields | {"turn": turn, "satisfaction": satisfied} | changes))


def test_answers_become_annotated_turns(played: Store) -> None:
    assert append_answers(played, [answer(0), answer(0, annotator="bob", intended="Select D", satisfaction="no")]) == 2
    assert append_answers(played, [answer(2, intended="nothing")]) == 1
    first, other, last = read_annotated(played, 5, "b-fft")
    assert (first.annotator, first.intended, first.satisfaction, first.correct) == ("ann", "select C", "yes", True)
    assert (other.annotator, other.intended, other.satisfaction, other.correct) == ("bob", "select D", "no", False)
    assert (last.turn, last.state, last.action) == (2, "D", "select A")
    assert (last.intended, last.satisfaction, last.correct) == ("nothing", None, False)
    assert first.context == tuple(game().context)
    assert (5, "b-fft", "g1", 2, "ann") in answered_turns(played)


def test_the_same_again_changes_nothing_and_another_answer_is_refused(played: Store) -> None:
    append_answers(played, [answer()])
    before = contents(played)
    assert append_answers(played, [answer()]) == 0
    with pytest.raises(AnswerError, match="'ann' answered this turn otherwise before"):
        append_answers(played, [answer(satisfaction="no")])
    assert contents(played) == before


def test_a_table_that_the_store_lost_is_made_again(played: Store) -> None:
    append_answers(played, [answer()])
    append_answers(played, [answer(1, intended="deselect C")])
    before = contents(played)
    (part,) = played.keys("annotations/round=5/variant=b-fft/part-")
    played.delete(part)
    build_annotations(played)
    assert contents(played) == before


def test_answers_that_come_in_at_once_are_all_in_the_table(played: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, others = human_eval.write_partition, [answer(annotator="bob")]

    def slowly(*given: Any, **options: Any) -> Manifest:
        if others:
            append_answers(played, [others.pop()])
        return plain(*given, **options)

    monkeypatch.setattr(human_eval, "write_partition", slowly)
    append_answers(played, [answer()])
    assert [each.annotator for each in read_annotated(played, 5, "b-fft")] == ["ann", "bob"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (answer(7), "turn"),
        (answer(interaction_id="g9"), "turn"),
        (answer(0, intended="deselect C"), "intended"),
        (answer(0, intended="the boat"), "intended"),
        (answer(0, satisfaction=None), "satisfaction"),
        (answer(2, satisfaction="no", intended="select A"), "satisfaction"),
    ],
)
def test_one_wrong_answer_keeps_all_of_them_out(played: Store, wrong: Answer, field: str) -> None:
    before = contents(played)
    with pytest.raises(AnswerError) as caught:
        append_answers(played, [answer(0), wrong])
    assert caught.value.field == field
    assert contents(played) == before


def test_an_answer_survives_a_crash_before_the_table_is_made(played: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("respect_core.measuring.human_eval.write_partition", crash)
        with pytest.raises(KeyboardInterrupt):
            append_answers(played, [answer()])
    assert read_annotated(played, 5, "b-fft") == []
    assert build_annotations(played) == [(5, "b-fft")]
    assert len(read_annotated(played, 5, "b-fft")) == 1
    assert append_answers(played, [answer()]) == 0


def test_of_two_processes_that_answer_at_once_neither_loses(played: Store) -> None:
    append_answers(played, [answer(0)])
    stale = contents(played, "annotations/")
    append_answers(played, [answer(0, annotator="bob", satisfaction="no")])
    for key, data in stale.items():  # the other process writes the manifest that it made from its own answer
        played.put(key, data)
    append_answers(played, [answer(1, intended="deselect C select D")])
    assert [(row.turn, row.annotator) for row in read_annotated(played, 5, "b-fft")] == [
        (0, "ann"),
        (0, "bob"),
        (1, "ann"),
    ]


def test_a_file_of_answers(played: Store, tmp_path: Path) -> None:
    lines = [
        answer(0).model_dump_json(),
        "",
        json.dumps(answer(1).model_dump() | {"satisfaction": "perhaps"}),
        answer(1, intended="select C").model_dump_json(),  # C is selected already
        answer(2, intended="select A", interaction_id="g2").model_dump_json(),
        "{",
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(lines))
    report = import_answers(played, path)
    assert (report.answers, report.set_aside) == (2, 3)
    assert report.problems is not None
    problems = [json.loads(line) for line in played.read(report.problems).splitlines()]
    assert [(each["object"], each["record"], each["field"]) for each in problems] == [
        ("answers.jsonl", "line 3", "satisfaction"),
        ("answers.jsonl", "line 6", ""),
        ("answers.jsonl", "line 4", "intended"),
    ]
    assert all(each["reason"] and each["remedy"] for each in problems)
    before = contents(played)
    assert import_answers(played, path) == report
    assert contents(played) == before
    assert read_table(played, "annotations")["source"].to_pylist() == ["file", "file"]
    manifest = read_manifest(played, "annotations", 5, "b-fft")
    assert manifest is not None
    assert manifest.counts["annotations"] == 2
