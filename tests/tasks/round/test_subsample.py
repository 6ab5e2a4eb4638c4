"""A round's training set has what people said of reviewed follow-ups, and counts it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from chats import conversation, conversations
from prefect.logging import disable_run_logger
from small import small

from respect_core.feedback import reviews
from respect_core.measuring.human_eval import Answer, append_answers
from respect_core.store.tables import read_table
from respect_core.training_data import curated
from respect_core.variants import NO_LIMITS, FeedbackSource, Variant
from tasks.round.subsample import subsample_variant
from tasks.support.references import TrainingSetRef
from tasks.support.workspace import Workspace, workspace


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    made = workspace(tmp_path / "run")
    store = conversations(tmp_path / "run" / "store")
    for number, name in enumerate((curated.D0, curated.VALIDATION)):
        log = conversation(number, 7 + number, "hh", "people")
        curated.write(store, name, [log])
    return made


def _trained(
    place: Workspace, variant: Variant, feedback: FeedbackSource = FeedbackSource.DECODED
) -> tuple[TrainingSetRef, dict[tuple[str, int], int]]:
    """The four conversations say the same, of which users' limits would keep one."""
    profile = replace(small("chat"), limits=NO_LIMITS, feedback=feedback)
    with disable_run_logger():
        found = subsample_variant.fn(place, profile, variant, 1, curated.VALIDATION, [])
    rows = read_table(place.open(), "training_sets", [1], [variant]).to_pylist()
    return found, {
        (row["interaction_id"], row["turn"]): row["label"]
        for row in rows
        if row["source"] == "round" and row["label"] is not None
    }


def test_the_next_round_learns_from_what_people_said(place: Workspace) -> None:
    before, labels = _trained(place, Variant.B_KTO)
    assert before.by_people == 0
    flipped, neutral = ("chat-1-b-fft-00", 0), ("chat-1-b-fft-00", 1)
    assert labels[flipped] == -1 and labels[neutral] == 1
    for key, said in ((flipped, "yes"), (neutral, "neutral")):
        about = {"interaction_id": key[0], "turn": key[1], "round": 1, "variant": "b-fft"}
        append_answers(place.open(), [Answer(**about, annotator="ann", satisfaction=said)], reviews.REVIEW)
    for variant in (Variant.B_KTO, Variant.T_KTO):
        after, changed = _trained(place, variant)
        assert after.by_people == 1 and changed == {key: each for key, each in labels.items() if key != neutral} | {
            flipped: 1
        }
        assert after.data_hash != before.data_hash
    thumbs, rated = _trained(place, Variant.B_KTO, feedback=FeedbackSource.EXPLICIT)
    assert thumbs.by_people == 0 and flipped not in rated
