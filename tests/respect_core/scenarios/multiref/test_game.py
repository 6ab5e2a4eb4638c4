"""The rules of appendix A.1, whatever the moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from respect_core.scenarios.multiref import actions
from respect_core.scenarios.multiref.contexts import GameContext
from respect_core.scenarios.multiref.game import MAX_TURNS, Game, RuleError

IMAGES = tuple("abcdefghij")
CONTEXT = GameContext("g", IMAGES, IMAGES[::-1], ("a", "c", "j"))


@pytest.mark.heavy
@given(st.lists(st.integers(0, 2**10 - 2), min_size=10, max_size=10))
def test_any_legal_play_ends_by_the_rules(choices: list[int]) -> None:
    game, state = Game(CONTEXT), ""
    for choice in choices:
        if game.over:
            break
        assert not game.awaits_action
        game.say("the tall one")
        assert game.awaits_action and not game.over and not game.success
        action = actions.legal_actions(state)[choice]
        game.act(action, 0.5)
        state = actions.apply(actions.parse(action), state)
        assert game.state == state
        assert game.success == (state == "ACJ")
    assert game.over
    assert game.success or 2 * len(game.turns) == MAX_TURNS
    seen = game.seen_by_listener()
    assert seen.context == IMAGES
    assert seen.turns[0].state == ""


def test_success_needs_exactly_the_targets() -> None:
    game = Game(CONTEXT)
    game.say("three")
    game.act("select A C J")
    assert game.success and game.over
    with pytest.raises(RuleError):
        game.say("more")


def test_moves_out_of_turn_are_refused() -> None:
    game = Game(CONTEXT)
    with pytest.raises(RuleError):
        game.act("select A")
    with pytest.raises(RuleError):
        game.say("   ")
    game.say("one")
    with pytest.raises(RuleError):
        game.say("two")
    with pytest.raises(actions.ActionError):
        game.act("deselect A")
    assert game.awaits_action
