"""What runs in a process of its own: `python -m tasks.worker SPEC.json` (started by `tasks.process`).

Each kind of work is a specification (everything it needs, by reference) and a function that returns its result.
Progress goes to standard output as JSON lines; the result to result.json beside the specification, written whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from respect_core.interaction import PolicyIdentity
from respect_core.variants import Profile, TrainingConfig
from tasks.workspace import Workspace


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True)

    workspace: Workspace
    profile: Profile
    code_version: str


class TrainSpec(_Spec):
    """Train one variant with one seed on its training set, validating as it goes."""

    kind: Literal["train"] = "train"
    variant: str
    round: int
    data_hash: str
    training: TrainingConfig
    seed: int
    validation: str = Field(description="name of the game set whose right turns serve")
    init_adapter: Path | None
    directory: Path


class PlaySpec(_Spec):
    """Play games with simulated speakers."""

    kind: Literal["play"] = "play"
    adapter: Path | None
    policy: PolicyIdentity
    round: int
    variant: str
    games: int
    contexts_seed: int
    seed: int
    log: bool = Field(description="append the games to the interaction log; replays are only counted")


class PlayResult(BaseModel):
    """Figures of a batch of games; the games themselves are in the log."""

    games: int
    success: float
    turns_per_game: float
    illegal_actions: int


class PropensitySpec(_Spec):
    """Probabilities of logged actions under a policy, renormalised over legal actions."""

    kind: Literal["propensity"] = "propensity"
    adapter: Path
    adapter_hash: str
    round: int
    variant: str
    data_hash: str


Spec = Annotated[TrainSpec | PlaySpec | PropensitySpec, Field(discriminator="kind")]


def report(done: int, total: int, note: str = "") -> None:
    """One line of progress for the parent process."""
    print(json.dumps({"done": done, "total": total, "note": note}), flush=True)


def _load_policy(spec: _Spec, adapter: Path | None, image_ids: set[str], seed: int) -> Any:
    from respect_core.policy import Policy

    from respect_core.base import load_adapter, load_base
    from respect_core.features import VisionFeatures
    from respect_core.images import load_images

    base = load_base(spec.profile.base)
    features = VisionFeatures(base, load_images(spec.workspace.open(), sorted(image_ids)))
    model = load_adapter(base.model, adapter) if adapter else base.model
    return Policy(base, model, features, seed=seed)
