"""Conversations of an exact length from the simulated smart home, as `games` has games.

An assistant that makes the right call three times in four talks with the simulated users, who want as many things as
there are turns. A turn is positive if its call was the right one, else negative.
"""

from __future__ import annotations

import random
from functools import lru_cache

from respect_core.interaction import Interaction, Turn
from respect_core.scenarios.chat.home import phrases
from respect_core.scenarios.chat.home.users import SimulatedUser
from respect_core.scenarios.chat.home.world import SYSTEM
from respect_core.training_data.sampling import Example
from tests.bench.games import RIGHT


@lru_cache(maxsize=16)
def examples(count: int, turns: int, *, positives: bool = False) -> tuple[Example, ...]:
    """So many conversations of exactly so many turns. With `positives`, no turn has a negative label."""
    return tuple(_example(number, turns, positives) for number in range(count))


def _example(number: int, turns: int, positives: bool) -> Example:
    rng = random.Random(f"bench-{number}")
    user = SimulatedUser(phrases.targets(rng, turns), "users", rng)
    said: str | None = user.speak(None)
    done: list[Turn] = []
    labels: list[int | None] = []
    while said is not None and len(done) < turns:
        right = user.targets[user.current].call
        last = len(done) == turns - 1  # a conversation is cut behind its last label
        call = right if last or rng.random() < RIGHT else phrases.targets(rng, 1)[0].call
        done.append(Turn("" if done else SYSTEM, said, call, None, -1.0))
        labels.append(1 if call == right else None if positives else -1)
        said = user.speak(call)
    return Example(Interaction(f"bench-{number}", (), tuple(done)), tuple(labels))
