"""Games of an exact length from the simulated world, and the same turns one by one, as the peers take them.

A listener that takes the intended action three times in four plays with the simulated speakers; games that last long
enough are cut to the length. A turn is positive if its action was the intended one, else negative, so every turn has
a label: about as dense as rehearsal and logs of a good policy, and denser than logs of a poor one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from respect_core.interaction import Interaction, waiting
from respect_core.scenarios.multiref import actions, contexts
from respect_core.scenarios.multiref.game import Game
from respect_core.scenarios.multiref.scenario import SCENARIO
from respect_core.training_data.sampling import Example

RIGHT = 0.75
LENGTHS = (3, 6, 10)


@dataclass(frozen=True)
class One:
    """A labelled turn by itself: all that came before, the action, and +1 or -1."""

    asked: Interaction
    action: str
    alternative: str  # another legal action, for KTO's KL term
    label: int
    probability: float


@lru_cache(maxsize=16)
def examples(count: int, turns: int, *, positives: bool = False) -> tuple[Example, ...]:
    """So many games of exactly so many turns. With `positives`, no turn has a negative label: it is context only."""
    # Drawings need more packages than a machine with a GPU may have (tests/bench/gpu).
    from respect_core.scenarios.multiref import speakers
    from tests.bench import models

    pool = models.pictures().pool
    factory = speakers.speaker_factory(speakers.values_of(pool.tangrams))
    found: list[Example] = []
    for context in contexts.sample(pool.main, 40 * count, "bench"):
        chance = random.Random(f"bench-{context.id}")
        game, speaker = Game(context), factory(context, "bench")
        labels: list[int | None] = []
        while not game.over and len(labels) < turns:
            saying = speaker.speak(game.state, game.last_action)
            game.say(saying.utterance)
            intended = str(saying.intended)
            legal = [a for a in actions.LETTERS if a not in game.state]
            guess = f"select {chance.choice(legal)}" if chance.random() > RIGHT else intended
            labels.append(1 if guess == intended else None if positives else -1)
            game.act(guess, chance.uniform(0.05, 0.9))
        # Training cuts a game behind its last label, so one that ends without is shorter than it says.
        if len(labels) == turns and labels[-1] is not None and 1 in labels:
            played = Interaction(context.id, context.images, tuple(game.turns))
            found.append(Example(played, tuple(labels)))
        if len(found) == count:
            return tuple(found)
    raise ValueError(f"only {len(found)} of {count} games of {turns} turns")


def one_by_one(data: Sequence[Example]) -> Iterator[One]:
    """The labelled turns of games, in order."""
    for example in data:
        for number, label in enumerate(example.labels):
            if label is not None:
                yield one(example.interaction, number, label)


def one(game: Interaction, number: int, label: int = 1) -> One:
    """A turn of a game by itself."""
    turn = game.turns[number]
    other = SCENARIO.alternative(game, number) if game.context else ""  # a conversation has none
    assert turn.action is not None and other is not None
    return One(waiting(game, number), turn.action, other, label, turn.probability or 1.0)
