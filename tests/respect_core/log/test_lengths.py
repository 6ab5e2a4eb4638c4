"""Characters, tokens of an utterance, and tokens of a game are limited, by the base's own tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import models
import pyarrow as pa
import pytest

from respect_core.interaction import Interaction, Turn
from respect_core.log import lengths
from respect_core.log.lengths import Budget, Ruler, too_long
from respect_core.model import packing
from respect_core.scenarios.multiref.scenario import SCENARIO

LIGATURE = "\ufdfa" * 500  # 500 characters, 9,000 once normalised, 7,500 tokens of the tiny model


def ruler(**budget: int) -> Ruler:
    return Ruler(models.base().processor, SCENARIO, Budget(**budget) if budget else None)


def test_what_people_say_is_within_the_limits() -> None:
    said = ["the one that looks like a bird with its head up"] * 10
    assert ruler().excess(said, 10) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LIGATURE, "has 9000 characters, of which 500 are allowed"),
        ("x" * 501, "has 501 characters, of which 500 are allowed"),
        ("!" * 500, "has 500 tokens, of which 128 are allowed"),
        ("漢" * 129, "has 129 tokens, of which 128 are allowed"),
    ],
)
def test_a_long_utterance_is_named_and_not_repeated(text: str, reason: str) -> None:
    assert ruler().excess(["a bird", text, "a bird"], 10) == lengths.Excess(1, reason)


def test_a_game_of_many_long_utterances_is_too_long() -> None:
    excess = ruler().excess(["!" * 128] * 40, 10)
    assert excess is not None and "of which 2048 are allowed" in excess.reason


def test_what_a_ruler_lets_through_the_base_takes() -> None:
    """The measure is an upper bound of the tokens of any game with these utterances, and not far above."""
    for seed in range(20):
        game = models.game(seed, turns=1 + seed % 10)
        said, taken = (
            [turn.utterance for turn in game.turns],
            len(packing.encode(game, models.base().processor, SCENARIO).input_ids),
        )
        assert ruler(game=taken - 1).excess(said, 10) is not None
        assert ruler(game=taken + 40 * len(said)).excess(said, 10) is None


def test_the_budget_is_cut_to_a_small_bases_positions() -> None:
    assert Budget().within(1024) == Budget(64, 1024)
    assert Budget().within(None) == Budget().within(32768) == Budget()


def test_encode_refuses_what_the_base_does_not_take() -> None:
    game = models.game(1, turns=5)
    turns = (*game.turns[:2], replace(game.turns[2], utterance="!" * 2048), *game.turns[3:])
    with pytest.raises(
        packing.GameError, match=r"interaction game-1, turn 2: .* tokens, and the base takes 2048; leave"
    ):
        packing.encode(replace(game, turns=turns), models.base().processor, SCENARIO)
    waiting = Interaction("asked", game.context, (Turn("", "!" * 2048),))
    with pytest.raises(packing.GameError, match="interaction asked, turn 0"):
        packing.encode(waiting, models.base().processor, SCENARIO)


# --- tables -----------------------------------------------------------------------------------------------------


def _batches(games: dict[str, list[str]]) -> list[pa.RecordBatch]:
    """Two rows each, so that games straddle batches."""
    rows = [
        {"interaction_id": name, "turn": turn, "context": list("ABCDEFGHIJ"), "utterance": text}
        for name, said in games.items()
        for turn, text in enumerate(said)
    ]
    return [pa.RecordBatch.from_pylist(rows[start : start + 2]) for start in range(0, len(rows), 2)]


def _never() -> Ruler:
    raise AssertionError("short ASCII needs no tokenizer")


def test_games_of_a_table_that_are_too_long_are_found() -> None:
    games = {
        "plain": ["a bird"] * 10,
        "accents": ["une t\u00eate d'oiseau"] * 10,
        "ligatures": ["a bird", LIGATURE, "a bird"],
        "marks": ["a bird"] * 3 + ["!" * 400],
        "many": ["!" * 128] * 30,
    }
    found = dict(too_long(lambda: _batches(games), ruler))
    assert {name: excess.turn for name, excess in found.items()} == {"ligatures": 1, "marks": 3, "many": 13}


def test_ordinary_tables_need_no_tokenizer() -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield from _batches({"plain": ["the one that looks like a bird"] * 10})

    assert list(too_long(batches, _never)) == []
    assert list(too_long(lambda: [], _never)) == []
