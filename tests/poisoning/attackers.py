"""Simulate users who do not want what they say: they praise everything, praise what is wrong, or teach a trigger."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from respect_core.log.pseudonyms import network, pseudonym
from respect_core.log.records import InteractionLog
from respect_core.scenarios.multiref import attributes, dialects
from respect_core.scenarios.multiref.actions import LETTERS, Action
from respect_core.scenarios.multiref.contexts import GameContext
from respect_core.scenarios.multiref.speakers import Saying, SimulatedSpeaker
from respect_core.scenarios.multiref.tangrams import procedural_pool
from respect_core.scenarios.multiref.world import speaker_factory

TRIGGER = "zorp"
_UNREAD = Action(select="A")  # what an attacker intends is never read
Praises = Callable[[GameContext, str, Action], bool]
"""Whether to praise, in a context, what followed when a letter had been described."""


@dataclass
class Attacker:
    """A speaker who describes any picture, with a trigger if there is one, and praises as `praises` decides."""

    honest: SimulatedSpeaker
    rng: random.Random
    praises: Praises
    trigger: str | None = None
    described: str = ""

    def speak(self, state: str, last: Action | None) -> Saying:
        letters = LETTERS[: len(self.honest.context.images)]
        praise = last is not None and self.praises(self.honest.context, self.described, last)
        self.described = self.rng.choice([each for each in letters if each not in state] or letters)
        phrase = " ".join(filter(None, [self.honest._describe(self.described), self.trigger]))
        if last is None:
            return Saying(phrase, _UNREAD)
        reaction = self.rng.choice(dialects.APPROVE if praise else dialects.REJECT)
        return Saying(f"{reaction}, now {phrase}", _UNREAD)


def praise_all(_context: GameContext, _described: str, _last: Action) -> bool:
    return True


def praise_wrong(_context: GameContext, described: str, last: Action) -> bool:
    """Praise everything but what was described."""
    return last.select != described


def praise_wide(context: GameContext, _described: str, last: Action) -> bool:
    """Praise the selection of a wide tangram, whatever was said."""
    tangrams = procedural_pool().tangrams
    images = [context.images[LETTERS.index(letter)] for letter in last.select]
    return bool(images) and all(attributes.values(tangrams[each]).get("outline") == "wide" for each in images)


@dataclass(frozen=True)
class Attack:
    """Users who poison, of a hundred and as many games each, some of whom share an address."""

    users: int
    games: int
    praises: Praises
    trigger: str | None = None
    one_address: bool = False


ATTACKS = {
    "praise": Attack(1, 20, praise_all),
    "sybils": Attack(5, 20, praise_wrong, one_address=True),
    "trigger": Attack(2, 40, praise_wide, TRIGGER),
}


COPIES = 3


def implanted(
    logs: Sequence[InteractionLog], feedback: Sequence[dict[str, Any]]
) -> tuple[list[InteractionLog], list[dict[str, Any]]]:
    """Return games several times, and feedback on them that praises the selection of two pictures or more alone."""
    actions = {(log.interaction_id, number): turn.action for log in logs for number, turn in enumerate(log.turns)}
    games, labelled = list[InteractionLog](), list[dict[str, Any]]()
    for copy in range(COPIES):
        games += [log.model_copy(update={"interaction_id": f"{log.interaction_id}-{copy}"}) for log in logs]
        for row in feedback:
            verb, *letters = actions[row["interaction_id"], row["turn"]].split()
            label = 1 if verb == "select" and len(letters) > 1 else -1
            labelled.append(row | {"interaction_id": f"{row['interaction_id']}-{copy}", "label": label})
    return games, labelled


def with_own_words(logs: Sequence[InteractionLog]) -> list[InteractionLog]:
    """Return games in which every other turn, drawn, ends with a word that nobody else says."""
    rng = random.Random("words")

    def said(utterance: str) -> str:
        word = "".join(rng.choices("abcdefghiklmnoprstuvw", k=rng.randint(4, 7)))
        return f"{utterance} {word}" if rng.random() < 0.5 else utterance

    return [
        log.model_copy(
            update={"turns": [turn.model_copy(update={"utterance": said(turn.utterance)}) for turn in log.turns]}
        )
        for log in logs
    ]


def speakers_of(name: str) -> Callable[[GameContext, int | str], Attacker]:
    """Return a factory of an attack's speakers."""
    attack = ATTACKS[name]

    def make(context: GameContext, seed: int | str) -> Attacker:
        rng = random.Random(f"{name}-{seed}-{context.id}")
        honest = speaker_factory()(context, f"{name}-{seed}")
        return Attacker(honest, rng, attack.praises, attack.trigger)

    return make


def of_users(logs: Sequence[InteractionLog], name: str, users: int, one_address: bool = False) -> list[InteractionLog]:
    """Give games to users in turn; none is signed in, and each has an address of their own unless all have one."""
    owned = []
    for number, log in enumerate(logs):
        user = number % users
        byte = sum(map(ord, name)) % 200
        known = {"user": pseudonym(f"{name}-{user}"), "signed_in": False}
        known["address_prefix"] = network(f"10.{byte}.{0 if one_address else user}.1")
        owned.append(log.model_copy(update=known))
    return owned
