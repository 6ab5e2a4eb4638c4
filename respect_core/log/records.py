"""Define the interaction log as deployments write it, one JSON line per interaction, and its rows in the tables."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from respect_core.interaction import Interaction, interactions
from respect_core.scenario import scenario
from respect_core.schemas import SCHEMA_VERSION

_UNKNOWN_DAY = date(1970, 1, 1)


def _is_none(value: object) -> bool:
    return value is None


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PolicyIdentity(_Record):
    """The weights that acted: a registered version, or a local adapter, by content hash."""

    name: str = Field(description="registered model, e.g. respect.b-fft, or a free name for policies from elsewhere")
    version: str = Field(description="version in the registry, or 'unknown'")
    adapter_hash: str | None = Field(default=None, description="sha256 of the adapter's files; None where unknown")

    @classmethod
    def of(cls, version: str, adapter_hash: str) -> PolicyIdentity:
        """Return the identity of a registered version, named as 'respect.b-fft/3'."""
        name, _, number = version.rpartition("/")
        return cls(name=name, version=number, adapter_hash=adapter_hash)


class LoggedTurn(_Record):
    """An utterance and the action that answered it."""

    utterance: str = Field(min_length=1)
    state: str | None = Field(
        default=None,
        exclude_if=_is_none,
        description="what the policy saw before the utterance; None where it follows from the actions",
    )
    action: str = Field(description="canonical action string, e.g. 'deselect E select F' or 'nothing'")
    probability: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="probability of the action when it was taken, renormalised over legal actions"
    )
    logp: Annotated[float, Field(le=0)] | None = Field(
        default=None,
        exclude_if=_is_none,
        description="log-probability of a text in nats, whose `probability` would be zero in a float",
    )
    explicit: Literal[-1, 1] | None = Field(
        default=None, exclude_if=_is_none, description="the user's own thumb, up or down"
    )
    seconds: Annotated[float, Field(ge=0)] | None = Field(default=None, description="from utterance to action")


class Outcome(_Record):
    """Targets and success, which only metrics may read."""

    targets: list[str]
    success: bool


class InteractionLog(_Record):
    """A finished interaction.

    Validation checks that images are distinct, that the scenario accepts the context and each action in the state that
    earlier actions led to, and that targets, if any, are among the images.
    """

    schema_version: Annotated[int, Field(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    interaction_id: str = Field(min_length=1)
    scenario: str = "multiref"
    round: Annotated[int, Field(ge=0)]
    variant: str = Field(min_length=1)
    policy: PolicyIdentity
    user: str = Field(description="pseudonym from `pseudonym`, never the raw id")
    consent: str | None = Field(
        default=None, exclude_if=_is_none, description="version of the text to which the user agreed"
    )
    address_prefix: str | None = Field(
        default=None,
        min_length=1,
        exclude_if=_is_none,
        description="network of the user's address, from `pseudonyms.network`; None where it says nothing",
    )
    signed_in: bool | None = Field(
        default=None,
        exclude_if=_is_none,
        description="whether the deployment knows who the user is; False for a cookie or an address, None if unknown",
    )
    started_at: str = Field(description="ISO 8601")
    context: list[str] = Field(description="image ids, listener's order")
    turns: list[LoggedTurn] = Field(min_length=1)
    closing: str | None = Field(
        default=None,
        min_length=1,
        exclude_if=_is_none,
        description="what the user wrote last, if nobody answered it: the follow-up of the last turn",
    )
    outcome: Outcome | None = None

    @model_validator(mode="after")
    def _consistent(self) -> InteractionLog:
        datetime.fromisoformat(self.started_at)
        if len(set(self.context)) != len(self.context):
            raise ValueError("context names an image twice")
        self.states()
        for number, turn in enumerate(self.turns):
            if not turn.utterance.strip():
                raise ValueError(f"turns[{number}].utterance is blank; drop the turn or restore its text")
        if self.outcome is not None and self.context:
            unknown = sorted(set(self.outcome.targets) - set(self.context))
            if unknown:
                raise ValueError(f"outcome.targets names {unknown}, not in context")
        return self

    def day(self) -> date | None:
        """Return the UTC date of the start."""
        return utc_day(self.started_at)

    def states(self) -> list[str]:
        """Return the state before each turn and after the last: one state more than turns."""
        return scenario(self.scenario).states(
            self.context, [turn.action for turn in self.turns], [turn.state for turn in self.turns]
        )


def utc_day(time: str) -> date | None:
    """Return the UTC date of an ISO 8601 time, which is UTC unless it says otherwise.

    None for the day that stands for an unknown time in imported chats.
    """
    at = datetime.fromisoformat(time)
    with suppress(OverflowError):  # beyond the years 1 to 9999
        at = at.astimezone(UTC) if at.tzinfo else at
    return None if at.date() == _UNKNOWN_DAY else at.date()


def turn_rows(log: InteractionLog) -> list[dict[str, Any]]:
    """Return the rows of the `turns` table for one interaction. Reads nothing of `log.outcome`."""
    keys = {"interaction_id": log.interaction_id, "round": log.round, "variant": log.variant}
    follow_ups = [turn.utterance for turn in log.turns[1:]]
    return [
        keys
        | {
            "turn": number,
            "scenario": log.scenario,
            "user": log.user,
            "context": log.context,
            "state": state,
            "utterance": turn.utterance,
            "action": turn.action,
            "probability": turn.probability,
            "logp": turn.logp,
            "explicit": turn.explicit,
            "day": log.day(),
            "address_prefix": log.address_prefix,
            "signed_in": log.signed_in,
            "follow_up": follow_up,
            "policy_name": log.policy.name,
            "policy_version": log.policy.version,
            "adapter_hash": log.policy.adapter_hash,
        }
        for number, (turn, state, follow_up) in enumerate(
            zip(log.turns, log.states()[:-1], [*follow_ups, log.closing], strict=True)
        )
    ]


def outcome_row(log: InteractionLog) -> dict[str, Any]:
    """Return the row of the `outcomes` table for one interaction."""
    return {
        "interaction_id": log.interaction_id,
        "round": log.round,
        "variant": log.variant,
        "scenario": log.scenario,
        "started_at": log.started_at,
        "turns": len(log.turns),
        "targets": log.outcome and log.outcome.targets,
        "success": log.outcome and log.outcome.success,
        "seconds": [turn.seconds for turn in log.turns],
    }


def from_log(log: InteractionLog) -> Interaction:
    """Return the learner's view of a log record."""
    return interactions(turn_rows(log))[0]
