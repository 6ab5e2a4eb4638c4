"""The interaction log and the tables made from it.

Two kinds of record, on purpose of different types:

- `InteractionLog` is what a deployment appends to the store, one JSON line per interaction. It may carry an
  `Outcome` (targets, success), which only metrics may read.
- `Interaction` is what learning sees: context, utterances, actions and the probability with which the policy
  acted (section 2: x_t, a_t, p_t and the follow-up). It has no field for a target or an outcome, and neither
  has the `turns` table it is read from. This split is the paper's promise that no auxiliary label is used.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from respect_core import actions

SCHEMA_VERSION = 1


# --- the log, as deployments write it -------------------------------------------------------------------------


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PolicyIdentity(_Record):
    """Which weights acted: a registered version, or a local adapter, by content hash."""

    name: str = Field(description="registered model, e.g. respect.b-fft, or a free name for policies from elsewhere")
    version: str = Field(description="version in the registry, or 'unknown'")
    adapter_hash: str | None = Field(default=None, description="sha256 of the adapter's files; None where unknown")


class LoggedTurn(_Record):
    """One utterance and the action taken on it."""

    utterance: str = Field(min_length=1)
    action: str = Field(description="canonical action string, e.g. 'deselect E select F' or 'nothing'")
    probability: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="probability of the action when it was taken, renormalised over legal actions"
    )
    seconds: Annotated[float, Field(ge=0)] | None = Field(default=None, description="from utterance to action")


class Outcome(_Record):
    """What only metrics may read."""

    targets: list[str]
    success: bool


class InteractionLog(_Record):
    """One finished interaction.

    Validation checks that images are distinct, that each action is canonical and legal in the state that the
    actions before it lead to, and that targets are among the images.
    """

    schema_version: Annotated[int, Field(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    interaction_id: str = Field(min_length=1)
    scenario: Literal["multiref"] = "multiref"
    round: Annotated[int, Field(ge=0)]
    variant: str = Field(min_length=1)
    policy: PolicyIdentity
    user: str = Field(description="pseudonym from `pseudonym`, never the raw id")
    started_at: str = Field(description="ISO 8601")
    context: list[str] = Field(min_length=2, max_length=len(actions.LETTERS), description="image ids, listener's order")
    turns: list[LoggedTurn] = Field(min_length=1)
    outcome: Outcome | None = None

    @model_validator(mode="after")
    def _consistent(self) -> InteractionLog:
        datetime.fromisoformat(self.started_at)
        if len(set(self.context)) != len(self.context):
            raise ValueError("context names an image twice")
        state, images = "", len(self.context)
        for number, turn in enumerate(self.turns):
            try:
                state = actions.step(turn.action, state, images)
            except actions.ActionError as error:
                raise ValueError(f"turns[{number}].action: {error}") from error
            if not turn.utterance.strip():
                raise ValueError(f"turns[{number}].utterance is blank; drop the turn or restore its text")
        if self.outcome is not None:
            unknown = sorted(set(self.outcome.targets) - set(self.context))
            if unknown:
                raise ValueError(f"outcome.targets names {unknown}, not in context")
        return self

    def states(self) -> list[str]:
        """Selected letters before each turn, and after the last: one more than there are turns."""
        states, images = [""], len(self.context)
        for turn in self.turns:
            states.append(actions.step(turn.action, states[-1], images))
        return states


_PUBLIC_KEY = "respect"


def pseudonym(user: str) -> str:
    """A stable pseudonym for a user id: 16 hex digits of an HMAC under RESPECT_USER_KEY.

    Set the variable to a secret in production; without it pseudonyms are stable but can be recomputed by
    anyone who knows the ids.
    """
    return hmac.new(_key(), user.encode(), hashlib.sha256).hexdigest()[:16]


def key_fingerprint() -> str:
    """Tell one RESPECT_USER_KEY from another without giving it away: an HMAC under it."""
    return hmac.new(_key(), b"fingerprint", hashlib.sha256).hexdigest()


def _key() -> bytes:
    return os.environ.get("RESPECT_USER_KEY", _PUBLIC_KEY).encode()


def pseudonyms_are_secret() -> bool:
    """Whether RESPECT_USER_KEY is set to something of one's own."""
    return os.environ.get("RESPECT_USER_KEY", "") not in ("", _PUBLIC_KEY)


# --- what learning and acting see -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Turn:
    """One turn as the policy sees it.

    `state` are the letters selected before the turn. `action` is None while the policy has yet to act.
    """

    state: str
    utterance: str
    action: str | None = None
    probability: float | None = None


@dataclass(frozen=True)
class Interaction:
    """One interaction without anything a learner must not know: image ids in the listener's order, and turns."""

    interaction_id: str
    context: tuple[str, ...]
    turns: tuple[Turn, ...]


# --- the tables -----------------------------------------------------------------------------------------------

# Keys of every table: a turn is (interaction_id, turn), counted from 0 in order of play.
_KEYS = [
    pa.field("interaction_id", pa.string(), nullable=False),
    pa.field("round", pa.int32(), nullable=False),
    pa.field("variant", pa.string(), nullable=False),
]

TURNS_SCHEMA = pa.schema(
    [
        *_KEYS,
        pa.field("turn", pa.int32(), nullable=False),
        pa.field("scenario", pa.string(), nullable=False),
        pa.field("user", pa.string(), nullable=False),
        pa.field("context", pa.list_(pa.string()), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("utterance", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("probability", pa.float64()),
        pa.field("follow_up", pa.string()),  # the next utterance; null after the last turn
        pa.field("policy_name", pa.string(), nullable=False),
        pa.field("policy_version", pa.string(), nullable=False),
        pa.field("adapter_hash", pa.string()),
    ],
    metadata={"table": "turns", "schema_version": str(SCHEMA_VERSION)},
)

OUTCOMES_SCHEMA = pa.schema(
    [
        *_KEYS,
        pa.field("scenario", pa.string(), nullable=False),
        pa.field("started_at", pa.string(), nullable=False),
        pa.field("turns", pa.int32(), nullable=False),
        pa.field("targets", pa.list_(pa.string())),
        pa.field("success", pa.bool_()),
        pa.field("seconds", pa.list_(pa.float64()), nullable=False),  # per turn; null where not logged
    ],
    metadata={"table": "outcomes", "schema_version": str(SCHEMA_VERSION)},
)

FEEDBACK_SCHEMA = pa.schema(
    [
        *_KEYS,
        pa.field("turn", pa.int32(), nullable=False),
        pa.field("decoder", pa.string(), nullable=False),  # binary | ternary
        pa.field("label", pa.int8(), nullable=False),  # +1 positive, 0 neutral, -1 negative
        pa.field("score", pa.float32(), nullable=False),  # log-odds of positive against the best other label
        pa.field("low_margin", pa.bool_(), nullable=False),
        pa.field("marked", pa.string()),  # what could be taken for the prompt (utterances.Mark); nobody learns from it
        pa.field("cut", pa.bool_()),  # whether the decoder read less than what was said; null where nobody knows
        pa.field("decoder_model", pa.string(), nullable=False),
        pa.field("decoder_revision", pa.string(), nullable=False),  # sha256 of the weights
        pa.field("prompt_hash", pa.string(), nullable=False),
        pa.field("thresholds", pa.string(), nullable=False),  # JSON
    ],
    metadata={"table": "feedback", "schema_version": str(SCHEMA_VERSION)},
)

TRAINING_SET_SCHEMA = pa.schema(
    [
        *_KEYS,
        pa.field("turn", pa.int32(), nullable=False),
        pa.field("context", pa.list_(pa.string()), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("utterance", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("probability", pa.float64()),  # p of equation 2, and KTO's reference
        # None: the turn is context only; +1, 0, -1: what was decoded
        pa.field("label", pa.int8()),
        pa.field("source", pa.string(), nullable=False),  # round | rehearsal | undo | clear (appendix B.2)
    ],
    metadata={"table": "training_sets", "schema_version": str(SCHEMA_VERSION)},
)


ANNOTATIONS_SCHEMA = pa.schema(
    [
        *_KEYS,
        pa.field("turn", pa.int32(), nullable=False),
        pa.field("annotator", pa.string(), nullable=False),  # a pseudonym
        pa.field("intended", pa.string()),  # canonical a*: what the annotator would have done
        pa.field("satisfaction", pa.string()),  # yes | partial | incorrect | no; null without a follow-up
        pa.field("correct", pa.bool_()),  # whether the action taken equals a*
        pa.field("source", pa.string(), nullable=False),  # page | file | released
    ],
    metadata={"table": "annotations", "schema_version": str(SCHEMA_VERSION)},
)


def turn_rows(log: InteractionLog) -> list[dict[str, Any]]:
    """The rows of the `turns` table for one interaction. Reads nothing of `log.outcome`."""
    of_game = {"interaction_id": log.interaction_id, "round": log.round, "variant": log.variant}
    following = [turn.utterance for turn in log.turns[1:]]
    return [
        of_game
        | {
            "turn": number,
            "scenario": log.scenario,
            "user": log.user,
            "context": log.context,
            "state": state,
            "utterance": turn.utterance,
            "action": turn.action,
            "probability": turn.probability,
            "follow_up": follow_up,
            "policy_name": log.policy.name,
            "policy_version": log.policy.version,
            "adapter_hash": log.policy.adapter_hash,
        }
        for number, (turn, state, follow_up) in enumerate(
            zip(log.turns, log.states()[:-1], [*following, None], strict=True)
        )
    ]


def outcome_row(log: InteractionLog) -> dict[str, Any]:
    """The row of the `outcomes` table for one interaction."""
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


def interactions(rows: Iterable[dict[str, Any]]) -> list[Interaction]:
    """Group rows of a turns table (any order) into interactions, sorted by id and turn.

    Raises:
        ValueError: an interaction whose turns are not numbered 0, 1, 2, ...
    """
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["interaction_id"], []).append(row)
    result = []
    for interaction_id, turns in sorted(grouped.items()):
        turns.sort(key=lambda row: row["turn"])
        numbers: Sequence[int] = [row["turn"] for row in turns]
        if numbers != list(range(len(turns))):
            raise ValueError(f"interaction {interaction_id}: turns are numbered {numbers}; expected 0, 1, 2, ...")
        result.append(
            Interaction(
                interaction_id,
                tuple(turns[0]["context"]),
                tuple(Turn(row["state"], row["utterance"], row["action"], row["probability"]) for row in turns),
            )
        )
    return result


def from_log(log: InteractionLog) -> Interaction:
    """The learner's view of a log record."""
    return interactions(turn_rows(log))[0]
