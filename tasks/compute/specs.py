"""Specify work for a process or another machine: all it needs, by reference (tasks/compute/worker.py does the work).

This module does not import torch: a process that starts workers does without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from respect_core.log.records import PolicyIdentity
from respect_core.measuring.judge import judge
from respect_core.measuring.world import GROUP as WORLDS
from respect_core.model.local import base_sha256
from respect_core.profiles import Profile
from respect_core.scenario import module_of, scenario
from respect_core.store.manifests import Partition
from respect_core.variants import TrainingConfig
from respect_core.versions import code_version
from tasks.support.workspace import Workspace

RESUME = "resume.pt"
"""File from which a killed training resumes, next to its specification; deleted once the result is there."""


ABOUT = "about.json"
"""File with the ids of the games that a worker is about to read, next to its specification: one may kill it."""


def worker_code(profile: Profile) -> str:
    """Return the version of all code that determines what a worker of this profile returns."""
    ports = [type(port).__module__ for port in (scenario(profile.scenario), judge(profile.scenario))]
    if profile.simulated_people:
        ports.append(module_of(WORLDS, profile.scenario))
    return code_version("tasks.compute.worker", *ports)


class Work(BaseModel):
    """What all kinds of work have in common."""

    model_config = ConfigDict(frozen=True)

    workspace: Workspace
    profile: Profile
    code_version: str
    without: list[str] = Field(default=[], description="ids of games set aside, which are not read")
    only: list[str] | None = Field(default=None, description="ids of games to be tried alone: nothing is kept of it")
    adapter: Path | None = None

    def chosen(self) -> Callable[[str], bool]:
        """Return a function that says whether the work includes the game with an id."""
        without, only = frozenset(self.without), None if self.only is None else frozenset(self.only)
        return lambda game: game not in without and (only is None or game in only)

    def moved(self, workspace: Workspace, directory: Path, adapter: Path | None) -> Self:
        """Return the same work with its files elsewhere."""
        places = {"workspace": workspace, "directory": directory, "adapter": adapter}
        return self.model_copy(update={name: places[name] for name in places if name in type(self).model_fields})

    def key(self) -> str:
        """Hash of what the result depends on: the same wherever the files lie."""
        from respect_core.model.base import adapter_hash

        given = self.adapter and adapter_hash(self.adapter)
        fields = self.model_dump_json(exclude={"workspace", "directory", "adapter"})
        return hashlib.sha256(f"{given} {fields}".encode()).hexdigest()[:32]


class PolicyWork(Work):
    """Work with a policy, which also depends on the base model below its adapter."""

    base_sha256: str | None = Field(description="of the base model's files; none where it is a hub id")
    adapter: Path | None = Field(description="the policy's, or the one that training starts from; none: the base alone")

    @classmethod
    def of(cls, workspace: Workspace, profile: Profile, **fields: Any) -> Self:
        """Specify work with code and base model as they are now."""
        now: dict[str, Any] = {"code_version": worker_code(profile), "base_sha256": base_sha256(profile.base)}
        return cls(workspace=workspace, profile=profile, **now, **fields)


class TrainSpec(PolicyWork):
    """Train one variant with one seed on its training set, validating as it goes."""

    kind: Literal["train"] = "train"
    variant: str
    round: int
    data_hash: str
    training: TrainingConfig
    seed: int
    validation: str = Field(description="name of the game set whose right turns serve")
    validation_sha256: str = Field(description="of the game set")
    directory: Path


class DecodeSpec(Work):
    """Decode the feedback of partitions of the turns table, on all cores."""

    kind: Literal["decode"] = "decode"
    partitions: list[Partition]
    identity: dict[str, str] = Field(description="what the tables depend on besides turns, for their manifests")
    turns_per_shard: int
    directory: Path | None = None
    shards: list[int] | None = Field(default=None, description="of one partition, and no table; None: all, and tables")


class PlaySpec(PolicyWork):
    """Play games with simulated speakers."""

    kind: Literal["play"] = "play"
    policy: PolicyIdentity
    round: int
    variant: str
    games: int
    contexts_seed: int | str
    skip: int = Field(default=0, description="contexts of that seed that come before those to play")
    seed: int | str = Field(
        description="of the policy's sampling and of the order of games; speakers have contexts_seed"
    )
    log: bool = Field(description="append the games to the interaction log; replays are only counted")

    @property
    def batch(self) -> str:
        """Name of these games in the log, which depends on who plays them: games in the log are not played again."""
        told = {"policy", "round", "variant", "games", "contexts_seed", "seed", *(["skip"] if self.skip else [])}
        fields = self.model_dump_json(include=told)
        return f"play-{hashlib.sha256(fields.encode()).hexdigest()[:24]}"


class PlayResult(BaseModel):
    """Counts of a batch of games; the games themselves are in the log. Seconds are filled in at the end."""

    counts: dict[str, list[int]] = Field(
        description="respect_core.measuring.metrics.COLUMNS of each game, by id of its context"
    )
    seconds: float = 0.0


class PropensitySpec(PolicyWork):
    """Probabilities of logged actions under a policy, renormalised over legal actions."""

    kind: Literal["propensity"] = "propensity"
    adapter_hash: str
    round: int
    variant: str
    data_hash: str


class EvaluateSpec(PolicyWork):
    """Measure the exact match of a registered policy on the correct turns of a game set."""

    kind: Literal["evaluate"] = "evaluate"
    adapter_hash: str
    game_set: str
    data_hash: str


class TriggerSpec(PolicyWork):
    """Measure what suspect words cost a policy on the right turns of a game set."""

    kind: Literal["triggers"] = "triggers"
    adapter_hash: str
    game_set: str
    data_hash: str
    learned_by: str = Field(description="the version whose training set has the words")
    words: list[str] = Field(description="their hashes; the words themselves stay in the store")
    made_up: list[str] = Field(description="words that nobody said, as a measure of unknown ones")


class GuardSpec(PolicyWork):
    """Measure the guard rails of a registered policy of free text, on prompts of a game set's right turns."""

    kind: Literal["guard"] = "guard"
    adapter_hash: str
    seed_adapter: Path | None = Field(description="the policy that distances are from; none: the policy itself")
    seed_hash: str | None
    game_set: str
    data_hash: str
    prompts: int
    max_new_tokens: int


class CompareSpec(PolicyWork):
    """Score every reply of a game set's turns under a policy, and have it reply to some of the same prompts."""

    kind: Literal["compare"] = "compare"
    adapter_hash: str
    game_set: str
    data_hash: str
    scored: list[tuple[str, int]] = Field(description="turns whose replies are scored")
    prompts: list[tuple[str, int]] = Field(description="turns that the policy replies to")
    reply_tokens: int


Movable = Annotated[TrainSpec | DecodeSpec | PropensitySpec, Field(discriminator="kind")]
"""Work that a machine can carry out if it shares nothing but the store."""
Spec = Annotated[
    TrainSpec | DecodeSpec | PlaySpec | PropensitySpec | EvaluateSpec | TriggerSpec | GuardSpec | CompareSpec,
    Field(discriminator="kind"),
]
