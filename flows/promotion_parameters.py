"""What a promotion, a canary and a rollback are asked: the fields of the command line and of Prefect's forms."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from flows.parameters import Parameters
from respect_core.variants import Variant

if TYPE_CHECKING:  # it imports numpy
    from respect_core.release.gate import GateConfig

Actor = Annotated[
    str, Field(description="Who asks, for the ledger, marked there as unverified. Empty: the account that runs it.")
]


class PromoteParameters(Parameters):
    """A variant's candidate, and what the gate requires of it."""

    variant: Variant = Field(description="Variant whose policy is to be deployed.")
    version: int | None = Field(default=None, ge=1, description="Number of the version. Empty: the newest candidate.")
    game_set: str = Field(
        default="gate",
        description="Game set on which it is compared to the deployed policy; its games chose no checkpoint.",
    )
    margin: float | None = Field(
        default=None, ge=0, le=1, description="Loss of exact match that counts as no worse. Empty: the gate's."
    )
    games: int | None = Field(
        default=None,
        ge=1,
        description="Games to accept instead of those that the gate needs to find a gain: fewer find it less often. "
        "The ledger records it. Empty: the gate's.",
    )
    user_share_cap: float | None = Field(
        default=None, ge=0, le=1, description="Largest share of one user in what it learned from. Empty: the gate's."
    )
    min_effective_users: float | None = Field(
        default=None, ge=0, description="Least number of effective users that it learned from. Empty: the gate's."
    )
    min_feedback_turns: int | None = Field(
        default=None, ge=1, description="Turns with feedback that it must have learned from. Empty: the gate's."
    )
    approve: bool = Field(
        default=False,
        description="Once the gate is passed, wait for a person on the approvals page or `respect approve`.",
    )
    canary: str | None = Field(
        default=None,
        description="Share of new conversations that the candidate gets once it has passed the gate, such as 10%; what "
        "users do then decides. Empty: all of them, at once.",
    )
    canary_margin: float = Field(
        default=0.05, gt=0, lt=1, description="With canary: the loss that counts as no worse, of what users do."
    )
    canary_conversations: int | None = Field(
        default=None,
        ge=1,
        description="With canary: conversations of both versions after which it ends undecided. Empty: those after "
        "which an equal candidate is promoted with 80% power.",
    )
    actor: Actor = ""
    reason: str = Field(default="", description="Why, for the ledger.")

    @field_validator("canary")
    @classmethod
    def _is_share(cls, canary: str | None) -> str | None:
        if canary:
            _share(canary)
        return canary or None

    @property
    def canary_share(self) -> float | None:
        """The share of new conversations that the candidate gets; None for all of them at once."""
        return _share(self.canary) if self.canary else None

    def gate(self, profile: str) -> GateConfig:
        """Return the gate of the candidate's profile with the settings made here."""
        from respect_core.release.gate import gate

        names = ("margin", "games", "user_share_cap", "min_effective_users", "min_feedback_turns")
        return replace(gate(profile), **{name: value for name in names if (value := getattr(self, name)) is not None})


def _share(canary: str) -> float:
    from respect_core.release.canary import share

    return share(canary)


class RollbackParameters(Parameters):
    """A variant whose users get back what was deployed before."""

    variant: Variant = Field(description="Variant whose previously deployed version is to come back.")
    reason: str = Field(default="", description="Why, for the ledger.")
    actor: Actor = ""
