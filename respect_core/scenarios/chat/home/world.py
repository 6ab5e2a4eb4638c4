"""Simulate the conversations of a smart home: D0, the validation set, and those that policies have with users.

Seeds differ by purpose, so that no conversation is in two of these sets. D0's users say things in ways of their own
(`phrases`); everybody else, the validation set's among them, in ways that D0 does not have.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

from respect_core.acting.listener import Act
from respect_core.interaction import Interaction, Turn
from respect_core.log.pseudonyms import pseudonym
from respect_core.log.records import InteractionLog, LoggedTurn, Outcome, PolicyIdentity
from respect_core.measuring.world import Deployment, World
from respect_core.profiles import Profile
from respect_core.scenarios.chat import reply
from respect_core.scenarios.chat.home import phrases
from respect_core.scenarios.chat.home.scenario import SCENARIO
from respect_core.scenarios.chat.home.users import SimulatedUser
from respect_core.store.base import Store
from respect_core.training_data.curated import D0
from respect_core.variants import HH

SYSTEM = reply.state("You control a smart home. Answer with one tool call in JSON.")
TARGETS = 3
USERS = 40  # who share the conversations
EPOCH = datetime(2024, 1, 1, tzinfo=UTC)  # simulated conversations have no date; a fixed one is reproducible


class SimulatedConversation:
    """A conversation with a simulated user (measuring.world.SimulatedInteraction)."""

    def __init__(self, name: str, contexts_seed: int | str, split: phrases.Split, deployment: Deployment) -> None:
        rng = random.Random(f"home-{contexts_seed}-{name}")
        self._name, self._deployment = name, deployment
        self._user = SimulatedUser(phrases.targets(rng, TARGETS), split, rng)
        self._turns: list[LoggedTurn] = []
        self._said = self._user.speak(None)

    @property
    def over(self) -> bool:
        return self._user.over

    @property
    def wanted(self) -> str:
        """The call that the user asks for."""
        return self._user.targets[self._user.current].call

    def seen(self) -> Interaction:
        turns = [Turn(turn.state or "", turn.utterance, turn.action, None, turn.logp) for turn in self._turns]
        return Interaction(self._name, (), (*turns, Turn(self._state(), self._said or "")))

    def act(self, act: Act, seconds: float) -> None:
        self._turns.append(
            LoggedTurn(
                utterance=self._said or "",
                state=self._state(),
                action=act.action,
                logp=act.logp,
                seconds=seconds,
            )
        )
        self._said = self._user.speak(act.action)

    def _state(self) -> str:
        return "" if self._turns else SYSTEM

    def log(self, number: int) -> InteractionLog:
        by, user = self._deployment, self._user
        return InteractionLog(
            interaction_id=f"{by.variant}-r{by.round}-s{by.seed}-{self._name}",
            scenario=SCENARIO.name,
            round=by.round,
            variant=by.variant,
            policy=by.policy,
            user=pseudonym(f"simulated-{number % USERS}"),
            started_at=(EPOCH + timedelta(days=by.round, minutes=number)).isoformat(),
            context=[],
            turns=self._turns,
            closing=self._said,
            outcome=Outcome(
                targets=[target.call for target in user.targets], success=user.reached == len(user.targets)
            ),
        )


class HomeWorld(World):
    """The users of the profile `home`."""

    def interactions(
        self, games: int, contexts_seed: int | str, deployment: Deployment, *, skip: int = 0
    ) -> list[SimulatedConversation]:
        return _conversations(skip + games, contexts_seed, "users", deployment)[skip:]

    def people(
        self, store: Store, games: int, contexts_seed: int | str, *, seed: int | str, round: int
    ) -> list[InteractionLog]:
        return _between_people(_conversations(games, contexts_seed, "users", _people(seed, round)))

    def game_set(self, store: Store, profile: Profile, name: str) -> list[InteractionLog]:
        count = profile.seed_games if name == D0 else profile.validation_games
        return _between_people(_conversations(count, name, "d0" if name == D0 else "users", _people(name, 0)))


def _conversations(
    count: int, contexts_seed: int | str, split: phrases.Split, deployment: Deployment
) -> list[SimulatedConversation]:
    names = (f"home-{contexts_seed}-{number:04d}" for number in range(count))
    return [SimulatedConversation(name, contexts_seed, split, deployment) for name in names]


def _people(seed: int | str, round: int) -> Deployment:
    return Deployment(round, HH, PolicyIdentity(name="human", version="unknown"), seed)


def _between_people(conversations: list[SimulatedConversation]) -> list[InteractionLog]:
    """Let a person answer, who understands what is asked for."""
    for conversation in conversations:
        while not conversation.over:
            conversation.act(Act(conversation.wanted, 1.0), 0.0)
    return [conversation.log(number) for number, conversation in enumerate(conversations)]


WORLD = HomeWorld()
