"""A table: clocks, moves and what each seat sees, with time passed in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.game.domain.table import Clocks, MoveRefusedError, Table, clean
from deployments.game.engine.archive import interaction_log
from deployments.game.engine.listener import PerfectListener
from respect_core.scenarios.multiref.contexts import GameContext

IMAGES = tuple(f"i{number}" for number in range(10))
CONTEXT = GameContext("c", IMAGES, IMAGES[::-1], ("i0", "i2", "i4"))


def _table(**seats: str) -> Table:
    return Table("g", CONTEXT, {"speaker": "ann", **seats}, "b-fft", 0, "2026-01-01T00:00:00", since=100.0)  # type: ignore[arg-type]


def _do(table: Table, event: dict[str, Any] | None, now: float = 100.0) -> None:
    assert event is not None
    table.apply(json.loads(json.dumps(event)), now)


def test_clocks_end_the_game_and_say_who_idled() -> None:
    """25 s to write, 45 s to click, and two for the way (appendix A.1, A.3)."""
    table = _table(listener="bob")
    assert table.seconds_left(110.0) == 15.0
    assert table.late(126.9) is None
    assert table.late(127.0) == {"kind": "ended", "game": "g", "reason": "idle", "by": "speaker"}
    _do(table, table.say("ann", 0, "the bird"), 120.0)
    assert table.seconds_left(130.0) == 35.0 and table.late(166.9) is None
    _do(table, table.late(167.1), 167.1)
    assert table.view("ann", 168.0, True).over.model_dump() == {"success": False, "reason": "idle", "by": "partner"}  # type: ignore[union-attr]
    assert table.view("bob", 168.0, True).over.by == "you"  # type: ignore[union-attr]
    assert table.awaited is None and table.late(1e9) is None


def test_the_log_has_what_is_known_of_the_speaker() -> None:
    table = _table(listener="bob")
    table.address_prefix, table.signed_in = "ab12", False
    _do(table, table.say("ann", 0, "the bird"))
    _do(table, table.act("bob", 0, "A", "", 101.0), 101.0)
    _do(table, table.leave("ann"))
    table.policy = "hh"
    log = interaction_log(table, {"speaker": "0123"})
    assert log is not None and (log.address_prefix, log.signed_in) == ("ab12", False)


def test_no_clock_runs_while_a_policy_thinks() -> None:
    table = _table()
    _do(table, table.say("ann", 0, "the bird"))
    assert table.seconds_left(1e6) is None and table.late(1e6) is None


def test_compressed_clocks() -> None:
    assert Clocks().faster(10) == Clocks(2.5, 4.5, 0.2)


def test_a_move_sent_again_is_the_same_move_and_another_one_is_refused() -> None:
    table = _table(listener="bob")
    _do(table, table.say("ann", 0, "the bird"))
    assert table.say("ann", 0, " the  bird ") is None
    _do(table, table.act("bob", 0, "CA", "", 101.0), 101.0)
    assert table.act("bob", 0, "AC", "", 102.0) is None and table.say("ann", 0, "the bird") is None
    assert table.game.turns[0].action == "select A C" and table.seconds == [1.0]
    for field, move in [
        ("text", lambda: table.say("ann", 0, "the boat")),
        ("select", lambda: table.act("bob", 0, "B", "", 1.0)),
        ("turn", lambda: table.act("bob", 1, "B", "", 1.0)),
        ("turn", lambda: table.say("ann", 2, "too early")),
        ("text", lambda: table.say("ann", 1, " \u202e\x00 ")),
        ("type", lambda: table.say("bob", 1, "I am the listener")),
        ("type", lambda: table.act("ann", 1, "B", "", 1.0)),
        ("game", lambda: table.say("eve", 1, "I am nobody")),
    ]:
        with pytest.raises(MoveRefusedError) as refused:
            move()
        assert refused.value.field == field
    _do(table, table.say("ann", 1, "no"))
    with pytest.raises(MoveRefusedError):
        table.act("bob", 1, "A", "", 1.0)  # is selected already
    with pytest.raises(MoveRefusedError):
        table.act("bob", 1, "B", "B", 1.0)


def test_right_and_wrong_are_for_the_speaker_and_each_has_an_order() -> None:
    """Figures 8 to 11."""
    table = _table(listener="bob")
    _do(table, table.say("ann", 0, "two"))
    _do(table, table.act("bob", 0, "AB", "", 1.0))
    seen = {image.image: image for image in table.view("ann", 100.0, True).images}
    assert list(seen) == list(IMAGES[::-1])
    assert [each for each, image in seen.items() if image.target] == ["i4", "i2", "i0"]  # type: ignore[union-attr]
    assert (seen["i0"].mark, seen["i1"].mark, seen["i2"].mark) == ("right", "wrong", None)  # type: ignore[union-attr]
    assert [(image.image, image.letter) for image in table.view("bob", 100.0, True).images] == list(
        zip(IMAGES, "ABCDEFGHIJ", strict=True)
    )


def test_won_out_of_turns_and_left() -> None:
    table = _table()
    for turn in range(3):
        _do(table, table.say("ann", turn, "next"))
        _do(table, table.policy_action(PerfectListener().act(table), 1.0))
    assert table.rule_ending() == {"kind": "ended", "game": "g", "reason": "won", "by": None}
    table = _table(listener="bob")
    for turn in range(10):
        assert table.rule_ending() is None and table.view("bob", 1.0, True).turns_left == 10 - turn
        _do(table, table.say("ann", turn, "next"))
        _do(table, table.act("bob", turn, "B" if turn % 2 == 0 else "", "B" if turn % 2 else "", 1.0))
    _do(table, table.rule_ending())
    assert table.view("ann", 1.0, True).over.reason == "out_of_turns"  # type: ignore[union-attr]
    table = _table(listener="bob")
    _do(table, table.leave("bob"))
    assert table.view("ann", 1.0, True).over.by == "partner" and table.leave("ann") is None  # type: ignore[union-attr]


moves = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(0, 9), st.text(max_size=8)),
        st.tuples(st.just("act"), st.integers(0, 9), st.text("ABCDEFGHIJ", max_size=3)),
        st.tuples(st.just("wait"), st.integers(0, 30), st.just("")),
        st.tuples(st.just("leave"), st.just(0), st.just("")),
    ),
    max_size=40,
)


@settings(max_examples=60)
@given(moves)
def test_whatever_is_tried_the_events_give_the_same_table_and_listeners_learn_nothing(played: list[Any]) -> None:
    table, again, now = _table(listener="bob"), _table(listener="bob"), 100.0
    for kind, number, text in played:
        try:
            if kind == "say":
                event = table.say("ann", number, text)
            elif kind == "act":
                selected = "".join(x for x in text if x in table.game.state)
                event = table.act("bob", number, "".join(x for x in text if x not in selected), selected, now)
            elif kind == "leave":
                event = table.leave("bob")
            else:
                now += number
                event = table.late(now)
        except MoveRefusedError:
            continue
        for happened in (event, None):
            happened = happened or table.rule_ending()
            if happened is not None:
                table.apply(happened, now)
                again.apply(json.loads(json.dumps(happened)), now)
    assert again.view("ann", now, True) == table.view("ann", now, True)
    seen = table.view("bob", now, True).model_dump_json()
    assert "target" not in seen and "mark" not in seen and "right" not in seen


@pytest.mark.parametrize(("text", "fits"), [("\ufdfa" * 500, True), ("!" * 500, False)])
def test_what_is_too_long_is_asked_for_shorter_and_the_game_goes_on(text: str, fits: bool) -> None:
    table = _table()
    with pytest.raises(MoveRefusedError, match="shorter, please"):
        table.say("ann", 0, text, fits=fits)
    assert table.awaited == "speaker" and table.ending is None
    assert table.say("ann", 0, "a bird") is not None


def test_an_utterance_is_in_normal_form() -> None:
    assert clean("\uff42\uff49\uff52\uff44\U000e0041\u200b \u200fa" + "\u0301" * 400) == "bird \u00e1\u0301\u0301"


def test_an_utterance_is_one_line_of_what_can_be_seen() -> None:
    assert clean("  the\n<b>bird</b>\t\u202eevil\x00\ud800 \U0001f426 ") == "the <b>bird</b> evil \U0001f426"
