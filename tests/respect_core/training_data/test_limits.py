"""How much users may teach: caps, weights, repeats and quarantine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest
from samples import played

from respect_core.log.records import InteractionLog, turn_rows
from respect_core.scenarios.multiref.scenario import SCENARIO
from respect_core.schemas import FEEDBACK_SCHEMA, TRAINING_SET_SCHEMA, TURNS_SCHEMA
from respect_core.training_data import eligibility
from respect_core.variants import UserLimits, Variant

ACTIONS = ("select A", "select B", "select C", "select D", "select E")


def _games(count: int, **known: Any) -> list[InteractionLog]:
    """Return games of five turns, four of which have a follow-up."""
    name = known.pop("name", "g")
    games = [played(f"{name}{number:03}", *ACTIONS) for number in range(count)]
    return [game.model_copy(update=known) for game in games]


def _learned(
    games: list[InteractionLog], limits: UserLimits, excluded: tuple[str, ...] = (), run: int = 1 << 16
) -> tuple[Counter[str], Counter[str]]:
    """Return labelled turns by game, and what was left out."""
    turns = pa.Table.from_pylist([row for game in games for row in turn_rows(game)], schema=TURNS_SCHEMA)
    fixed = {"round": 0, "variant": "seed", "decoder": "binary", "score": 1.0, "low_margin": False, "label": 1}
    fixed |= {"decoder_model": "m", "decoder_revision": "r", "prompt_hash": "p", "thresholds": "{}"}
    rows = [
        {"interaction_id": game.interaction_id, "turn": turn} | fixed for game in games for turn in range(len(ACTIONS))
    ]
    feedback = pa.Table.from_pylist(rows, schema=FEEDBACK_SCHEMA)
    left_out = Counter[str]()
    batches = eligibility.training_batches(
        turns.to_batches(max_chunksize=7),
        feedback.to_batches(),
        TURNS_SCHEMA.empty_table(),
        Variant.B_FFT,
        SCENARIO,
        limits=limits,
        excluded=excluded,
        left_out=left_out,
        run=run,
    )
    table = pa.Table.from_batches(batches, TRAINING_SET_SCHEMA)
    lengths = Counter(table["interaction_id"].to_pylist())
    assert set(lengths.values()) <= {len(ACTIONS)}, "whole games"
    labelled = [row["interaction_id"] for row in table.to_pylist() if row["label"] is not None]
    return Counter(labelled), +left_out


def test_without_limits_everybody_teaches() -> None:
    learned, left_out = _learned(_games(3, user="ann"), UserLimits())
    assert learned.total() == 12 and not left_out


def test_a_user_teaches_no_more_than_the_cap_and_a_repeated_run_takes_the_same_turns() -> None:
    games = _games(50, user="ann") + _games(2, user="bob", name="b")
    limits = UserLimits(user_turns=10)
    learned, left_out = _learned(games, limits)
    by_user = {user: sum(n for game, n in learned.items() if game.startswith(user)) for user in ("g", "b")}
    assert by_user == {"g": 10, "b": 8} and left_out == {"capped": 190}
    assert max(int(game[1:]) for game in learned if game.startswith("g")) > 10, "not whoever was first"
    assert _learned(games[::-1], limits, run=20)[0] == learned, "in any order, and in any number of files"


@pytest.mark.parametrize(
    ("known", "limits", "expected"),
    [
        ({"address_prefix": "here", "signed_in": False}, UserLimits(address_turns=6), 6),
        ({"address_prefix": "here"}, UserLimits(address_turns=6), 6),
        ({"address_prefix": "here", "signed_in": True}, UserLimits(address_turns=6), 16),
        ({}, UserLimits(address_turns=6), 16),
    ],
)
def test_an_address_is_capped_unless_its_users_are_known(
    known: Mapping[str, Any], limits: UserLimits, expected: int
) -> None:
    games = [game for number in range(4) for game in _games(1, user=f"user-{number}", name=f"u{number}", **known)]
    assert _learned(games, limits)[0].total() == expected


def test_each_day_of_a_user_is_capped() -> None:
    days = [f"2026-11-{day:02}T23:30:00-01:00" for day in (1, 1, 1, 2, 2, 2)]
    games = [game.model_copy(update={"started_at": at}) for game, at in zip(_games(6, user="ann"), days, strict=True)]
    assert _learned(games, UserLimits(day_turns=5))[0].total() == 10
    unknown = [game.model_copy(update={"started_at": "1970-01-01T00:00:00+00:00"}) for game in games]
    assert _learned(unknown, UserLimits(day_turns=5))[0].total() == 24, "no day is known"


def test_users_who_are_not_signed_in_count_with_their_weight() -> None:
    anonymous = [
        game.model_copy(update={"user": f"a{number}", "signed_in": False}) for number, game in enumerate(_games(500))
    ]
    others = _games(5, name="k", signed_in=True) + _games(5, name="n")
    learned, left_out = _learned(anonymous + others, UserLimits(anonymous_weight=0.25))
    thinned = sum(n for game, n in learned.items() if game.startswith("g"))
    assert abs(thinned - 500) < 4 * (2000 * 0.25 * 0.75) ** 0.5
    assert learned.total() - thinned == 40, "all of whoever is signed in, or of whom it is unknown"
    assert left_out == {"thinned": 2000 - thinned}


def test_users_in_quarantine_teach_nothing() -> None:
    games = _games(2, user="ann") + _games(2, user="bob", name="b")
    learned, left_out = _learned(games, UserLimits(), ("bob",))
    assert set(learned) == {"g000", "g001"} and left_out == {"quarantine": 8}


def _said(game: InteractionLog, *texts: str) -> InteractionLog:
    turns = [turn.model_copy(update={"utterance": text}) for turn, text in zip(game.turns, texts, strict=True)]
    return game.model_copy(update={"turns": turns})


def test_conversations_of_one_user_that_are_nearly_the_same_count_once() -> None:
    script = ("the boat with two sails", "yes, now the dancer", "great, the fox", "right, the tower", "good, the house")
    varied = ("a boat with two sails", "Yes, now the dancer", "great, the fox ", "right, the tower", "good, the houses")
    other = ("a running man", "yes, the table", "great, a candle", "right, the swan", "good, a bridge")
    games = _games(6, user="ann")
    texts = (script, varied, other, script, varied, script)
    mine = [_said(game, *said) for game, said in zip(games, texts, strict=True)]
    theirs = [_said(game, *script) for game in _games(1, user="bob", name="b")]
    learned, left_out = _learned(mine + theirs, UserLimits(likeness=0.9))
    assert len(learned) == 3 and "g002" in learned and "b000" in learned and left_out == {"repeated": 16}
    assert _learned(mine + theirs, UserLimits(likeness=0.9), run=10)[0] == learned


def test_short_follow_ups_alone_repeat_nothing() -> None:
    """An honest user says 'yes' again and again, of other things."""
    games = _games(20, user="ann")
    things = (
        *("boat", "dancer", "fox", "tower", "house", "swan", "bridge", "candle", "bear"),
        *("kite", "snail", "robot", "monk", "sled", "goose", "flag", "barrel", "rock"),
    )
    said = [
        _said(
            game, f"the {things[number]} here", *(f"yes, now the {things[(number + k * 3) % 18]}" for k in range(1, 5))
        )
        for number, game in enumerate(games[:18])
    ]
    assert len(_learned(said, UserLimits(likeness=0.9))[0]) == 18
