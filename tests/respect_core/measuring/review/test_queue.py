"""The review queue: what is asked about, in which order, of whom, and where the answers go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from chats import conversations
from reports import deployment

from respect_core.feedback.reviews import majority, people_labels
from respect_core.measuring.annotation_tasks import (
    AnnotationTask,
    AuditTask,
    discard,
    next_turn,
    put_tasks,
    read_tasks,
    sample,
    sample_follow_ups,
)
from respect_core.measuring.human_eval import Answer, answered_turns, append_answers, read_annotated
from respect_core.measuring.review.estimates import measure
from respect_core.measuring.review.queue import asked_turns, draw
from respect_core.schemas import FEEDBACK_SCHEMA
from respect_core.store.base import Store
from respect_core.store.manifests import Partition, TableError
from respect_core.store.open import open_store
from respect_core.store.tables import read_table, write_partition

CHAT = Partition(1, "b-fft")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Conversations of round 1, with decoders that disagree on some turns, and are unsure of others."""
    store = conversations(tmp_path / "store")
    rows = read_table(store, "feedback", [1], ["b-fft"]).to_pylist()
    changed = {
        ("chat-1-b-fft-00", 1, "ternary"): {"label": -1, "score": -2.0},  # against +1
        ("chat-1-b-fft-01", 1, "ternary"): {"label": -1, "score": -1.0},
        ("chat-1-b-fft-02", 2, "ternary"): {"label": 0, "score": 0.1},
        ("chat-1-b-fft-03", 2, "ternary"): {"label": -1, "score": -0.1, "marked": "role"},
        ("chat-1-b-fft-00", 5, "binary"): {"score": 0.05},  # all of turn 5 have a low margin
    }
    for row in rows:
        row |= {"thresholds": '{"positive": 0.0, "neutral": null}'}
        row |= changed.get((row["interaction_id"], row["turn"], row["decoder"]), {})
    write_partition(store, "feedback", 1, "b-fft", pa.Table.from_pylist(rows, FEEDBACK_SCHEMA))
    return store


def _asked(store: Store) -> list[tuple[str, int]]:
    return [(task.interaction_id[-2:], turn) for task in read_tasks(store, AuditTask) for turn in task.asked or {}]


def test_what_matters_most_comes_first_and_nothing_twice(store: Store) -> None:
    drawn = draw(store, None, audit=0)
    assert (drawn.queued, drawn.audited, drawn.decoded, drawn.unsure) == (7, 0, 24, 7)
    assert _asked(store)[:4] == [("01", 1), ("00", 1), ("02", 2), ("00", 5)], "by sign, by neutral, by margin"
    assert sorted(_asked(store)[4:]) == [("01", 5), ("02", 5), ("03", 5)] and ("03", 2) not in _asked(store)
    assert draw(store, None, most=2, audit=0).queued == 2 and _asked(store) == [("01", 1), ("00", 1)]
    for task in read_tasks(store, AuditTask):
        assert len(task.turns) == 1 and task.turns[0].follow_up and task.turns[0].messages[-1][0] == "assistant"


def test_the_audit_is_drawn_from_all_with_the_same_chance_and_alternates_with_the_queue(store: Store) -> None:
    draw(store, None, audit=6)
    asked = asked_turns(store, [CHAT])
    audit = [key for key, each in asked.items() if each.audit]
    assert len(audit) == 6 and len(asked) == len(set(_asked(store))) <= 13
    assert all(each.chance == (1.0 if each.rank is not None else 6 / 24) and each.of == 24 for each in asked.values())
    first = [each.audit for each in asked.values()][: len(asked) // 2]
    assert 2 <= sum(first) <= 4, "whenever people stop, both were begun"
    draw(store, None, audit=9)
    assert {key for key, each in asked_turns(store, [CHAT]).items() if each.audit} > set(audit)
    draw(store, None, audit=100)
    assert len(asked_turns(store, [CHAT])) == 24
    with pytest.raises(TableError, match="no decoded follow-ups of round 7"):
        draw(store, 7)


def _review(store: Store, who: str, label: Any) -> list[tuple[str, int]]:
    """Answers all that an annotator is asked; returns it in order."""
    seen = []
    while found := next_turn(read_tasks(store, AuditTask), answered_turns(store), who):
        task, turn = found
        seen.append((task.interaction_id, turn.turn))
        about = {"interaction_id": task.interaction_id, "turn": turn.turn, **task.partition._asdict()}
        answer = Answer(**about, annotator=who, satisfaction=label(turn))
        append_answers(store, [answer], "review")
    return seen


def test_nobody_reviews_their_own_words_and_the_majority_of_several_counts(store: Store) -> None:
    draw(store, None, most=3, audit=0, annotators=3)
    mine = _review(store, "user-1", lambda _: "yes")
    assert mine == [("chat-1-b-fft-00", 1), ("chat-1-b-fft-02", 2)], "without chat 01, which is user 1's own"
    for who, label in (("bob", "no"), ("eve", "no"), ("dan", "yes")):
        _review(store, who, lambda _, label=label: label)
    assert people_labels(store, [CHAT]) == {
        ("chat-1-b-fft-00", 1): -1,
        ("chat-1-b-fft-01", 1): -1,
        ("chat-1-b-fft-02", 2): -1,
    }
    assert majority({"a": 1, "b": -1}) is None and majority({"a": 0}) == 0
    assert majority({"a": 1, "b": 0, "c": 1}) == 1


def test_reviews_are_learned_from_and_count_in_no_evaluation(store: Store) -> None:
    put_tasks(store, sample_follow_ups(store, 1, "b-fft", turns=24))
    evaluated = {"interaction_id": "chat-1-b-fft-01", "turn": 0, **CHAT._asdict(), "annotator": "a"}
    append_answers(store, [Answer(**evaluated, satisfaction="yes")])
    assert people_labels(store, [CHAT]) == {} == measure(store, [CHAT]), "of an evaluation"
    discard(store, CHAT)
    draw(store, None, audit=8)
    seen = _review(store, "ann", lambda turn: "yes" if turn.turn % 2 else "no")
    assert len(seen) == len(set(seen)) == len(asked_turns(store, [CHAT]))
    assert {turn.turn for turn in read_annotated(store, *CHAT)} == {0}
    found = measure(store, [CHAT])["ternary"]
    assert found.labels == len(seen) and found.audited == 8 and set(found.weighted) == {-1, 1}
    labels = people_labels(store, [CHAT])
    decoded = {
        (row["interaction_id"], row["turn"]): row["label"]
        for row in read_table(store, "feedback", [1], ["b-fft"]).to_pylist()
        if row["decoder"] == "ternary"
    }
    assert found.replaced == sum(decoded[key] != label for key, label in labels.items()) > 0
    discard(store, CHAT)
    assert read_tasks(store, AuditTask) == [] and measure(store, [CHAT])["ternary"].weighted == {}


def test_games_are_reviewed_with_the_turns_before(tmp_path: Path) -> None:
    store = deployment(tmp_path / "store")
    drawn = draw(store, 0, most=5, audit=2)
    assert (drawn.queued, drawn.audited, drawn.decoded) == (0, 2, 4)
    tasks = read_tasks(store)
    assert [type(task) for task in tasks] == [AnnotationTask] * 2 and all(task.context for task in tasks)
    for task in tasks:
        (turn,) = task.asked or {}
        assert [each.turn for each in task.turns] == list(range(turn + 1)) and task.turns[turn].follow_up
    before = sample(store, 0, "seed", games=1)
    put_tasks(store, before)
    assert len(read_tasks(store)) == 3, "what is drawn for an evaluation is kept apart"


def test_an_unreadable_store_has_no_reviews(tmp_path: Path) -> None:
    assert people_labels(open_store(tmp_path), [CHAT]) == {} == asked_turns(open_store(tmp_path), [CHAT])
