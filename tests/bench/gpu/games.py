"""Made-up games and pictures, as long as those of simulated speakers, from word lists alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import lru_cache

from PIL import Image, ImageDraw

from respect_core.feedback.prompts import Exchange
from respect_core.scenarios.multiref import actions, contexts
from respect_core.scenarios.multiref.game import Game
from respect_core.training_data.sampling import Example

IMAGES = 200
RIGHT = 0.75  # share of positive turns
_IDS = [f"picture-{number:03}" for number in range(IMAGES)]
_OPENINGS = ("", "yes, now ", "no, ", "good. ", "undo that. ", "the next one is ", "wrong one, i mean ")
_ADJECTIVES = ("tall", "small", "wide", "narrow", "white", "pointed")
_NOUNS = ("bird", "cat", "dog", "candle", "witch", "dancer", "rooster", "teapot", "unicorn", "diver", "squirrel")
_DETAILS = ("looking left", "with wings", "pointing right", "on one foot", "with a sharp head", "at the bottom")


class Pictures(Mapping[str, Image.Image]):
    """A filled polygon for each id, the same every time, at the processor's size."""

    def __init__(self, side: int) -> None:
        self._side = side
        self._drawn = lru_cache(maxsize=None)(self._draw)

    def __getitem__(self, image: str) -> Image.Image:
        return self._drawn(image)

    def __iter__(self) -> Iterator[str]:
        return iter(_IDS)

    def __len__(self) -> int:
        return IMAGES

    def _draw(self, image: str) -> Image.Image:
        if image not in _IDS:
            raise KeyError(image)
        chance = random.Random(image)
        corners = [(chance.uniform(0, self._side), chance.uniform(0, self._side)) for _ in range(6)]
        picture = Image.new("RGB", (self._side, self._side), "white")
        ImageDraw.Draw(picture).polygon(corners, fill=(chance.randrange(200), 40, 60))
        return picture


def utterance(chance: random.Random, *, first: bool = False) -> str:
    """What a speaker says: an answer to the last action, unless it is the first turn, and the next picture."""
    opening = "" if first else chance.choice(_OPENINGS)
    return f"{opening}the {chance.choice(_ADJECTIVES)} {chance.choice(_NOUNS)} {chance.choice(_DETAILS)}"


def drawn(count: int, name: str) -> list[contexts.GameContext]:
    return contexts.sample(_IDS, count, name)


def examples(count: int, turns: int, *, positives: bool = False) -> tuple[Example, ...]:
    """So many games of so many turns, each with a label and a probability. `positives`: others are context only."""
    result = []
    for context in drawn(4 * count, "gpu"):
        chance = random.Random(context.id)
        game, labels = Game(context), list[int | None]()
        while len(labels) < turns and not game.over:
            game.say(utterance(chance, first=not labels))
            legal = [letter for letter in actions.LETTERS if letter not in game.state]
            game.act(f"select {chance.choice(legal)}", chance.uniform(0.05, 0.9))
            labels.append(1 if chance.random() < RIGHT else None if positives else -1)
        if len(labels) == turns and labels[-1] is not None and len(result) < count:
            result.append(Example(game.seen_by_listener(), tuple(labels)))
    return tuple(result)


def exchanges(count: int, turns: int) -> list[Exchange]:
    """So many turns with a follow-up."""
    result = []
    for example in examples(-(-count // (turns - 1)), turns):
        played = example.interaction.turns
        for number in range(turns - 1):
            before = played[number - 1].action if number else None
            turn, after = played[number], played[number + 1]
            result.append(Exchange(before, turn.utterance, turn.action or "", after.utterance))
    return result[:count]
