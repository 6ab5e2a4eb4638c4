"""Define the port through which a scenario simulates its users: FOR MEASURING ONLY.

A world is looked up by the name of its scenario, in the entry points of group `respect.worlds`. Its users know what
they want, and how an interaction ended; a policy sees only what they write. Scenarios without a world learn from real
users alone.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from respect_core.acting.listener import Act, Listener
from respect_core.interaction import Interaction
from respect_core.log.records import InteractionLog, PolicyIdentity
from respect_core.profiles import Profile
from respect_core.scenario import plugin
from respect_core.store.base import Store

GROUP = "respect.worlds"


@dataclass(frozen=True)
class Deployment:
    """Where and by whom interactions are played, for the log.

    `seed` is of the policy's sampling and of the order of play. It is part of the interactions' ids.
    """

    round: int
    variant: str
    policy: PolicyIdentity
    seed: int | str


class SimulatedInteraction(Protocol):
    """An interaction in play: a simulated user has written, and waits for the policy."""

    @property
    def over(self) -> bool:
        """Whether the user is done."""
        ...

    def seen(self) -> Interaction:
        """Return what the policy may see."""
        ...

    def act(self, act: Act, seconds: float) -> None:
        """Take the policy's act, and what the user makes of it."""
        ...

    def log(self, number: int) -> InteractionLog:
        """Return the record of a finished interaction, the given one in its deployment."""
        ...


class World(ABC):
    """The simulated users of a scenario. Instances hold no state."""

    @abstractmethod
    def interactions(
        self, games: int, contexts_seed: int | str, deployment: Deployment, *, skip: int = 0
    ) -> Sequence[SimulatedInteraction]:
        """Make the interactions of a seed after the first `skip`; another deployment has the same users."""

    @abstractmethod
    def people(
        self, store: Store, games: int, contexts_seed: int | str, *, seed: int | str, round: int
    ) -> list[InteractionLog]:
        """Play between people (HH) on the contexts of that seed, with their images in the store."""

    @abstractmethod
    def game_set(self, store: Store, profile: Profile, name: str) -> list[InteractionLog]:
        """Make D0 or the validation set (appendix B.2), with their images in the store."""

    def ensure_images(self, store: Store, images: Collection[str]) -> None:
        """Store those images that the store lacks."""
        return


def world(scenario: str) -> World:
    """Return the world of a scenario. Raises ScenarioError if none is installed."""
    found: World = plugin(GROUP, scenario)
    return found


class Progress(Protocol):
    """Callback after every step, with the number of finished interactions and of all."""

    def __call__(self, over: int, total: int, /) -> None: ...


def play(
    listener: Listener,
    interactions: Sequence[SimulatedInteraction],
    *,
    batch: int = 64,
    progress: Progress | None = None,
) -> list[InteractionLog]:
    """Play each interaction to its end.

    Up to `batch` are live at a time, and each step is one call of `listener.act` for all of them. A finished one makes
    room for the next. Logs are returned in the order of `interactions`, whatever the order of play.
    """
    waiting = list(enumerate(interactions))[::-1]
    live: dict[int, SimulatedInteraction] = {}
    logs: dict[int, InteractionLog] = {}
    while waiting or live:
        while waiting and len(live) < batch:
            number, interaction = waiting.pop()
            live[number] = interaction
        start = time.perf_counter()
        acts = listener.act([interaction.seen() for interaction in live.values()])
        seconds = (time.perf_counter() - start) / len(live)
        if len(acts) != len(live):
            raise ValueError(f"the listener returned {len(acts)} acts for {len(live)} interactions")
        for (number, interaction), act in zip(list(live.items()), acts, strict=True):
            interaction.act(act, seconds)
            if interaction.over:
                logs[number] = interaction.log(number)
                del live[number]
        if progress is not None:
            progress(len(logs), len(interactions))
    return [logs[number] for number in sorted(logs)]
