"""Define the Arrow schemas of the tables under the store root.

A turn's key is (interaction_id, turn); turns are counted from 0 in order of play.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

SCHEMA_VERSION = 1


# Columns that every table has.
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
        pa.field("logp", pa.float64()),  # log of p for free text, whose p is zero in any float; else null
        pa.field("explicit", pa.int8()),  # the user's own thumb, +1 or -1; null without one
        pa.field("day", pa.date32()),  # of the start, UTC; null where no time is known
        pa.field("address_prefix", pa.string()),  # keyed hash of the user's network; null where not known
        pa.field("signed_in", pa.bool_()),  # whether the deployment knew who the user is; null where not known
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
        pa.field("marked", pa.string()),  # parts that look like a prompt (utterances.Mark); never learned from
        pa.field("cut", pa.bool_()),  # whether the decoder read a shortened text; null where unknown
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
        pa.field("logp", pa.float64()),  # as in turns
        pa.field("label", pa.int8()),  # decoded feedback: +1, 0, -1; null where the turn is context only
        pa.field("source", pa.string(), nullable=False),  # round | rehearsal | undo | clear (appendix B.2)
    ],
    metadata={"table": "training_sets", "schema_version": str(SCHEMA_VERSION)},
)


ANNOTATIONS_SCHEMA = pa.schema(
    [
        *_KEYS,
        pa.field("turn", pa.int32(), nullable=False),
        pa.field("annotator", pa.string(), nullable=False),  # a pseudonym
        pa.field("intended", pa.string()),  # canonical a*: what the annotator would have done; null of free text
        pa.field("satisfaction", pa.string()),  # yes | partial | incorrect | neutral | no; null: no follow-up
        pa.field("correct", pa.bool_()),  # whether the action taken equals a*; null without one
        pa.field("source", pa.string(), nullable=False),  # page | file | released | review
    ],
    metadata={"table": "annotations", "schema_version": str(SCHEMA_VERSION)},
)


@dataclass(frozen=True)
class Columns:
    """Interactions as rows of the turns and outcomes tables, in the same order."""

    turns: pa.Table
    outcomes: pa.Table
