"""From decoded turns to the batches of an epoch: eligibility, rehearsal, and 5:4 (section 5, appendices B.1-B.3).

Deviations from the paper, and why:
1. Images are shuffled once per game and epoch, not once per turn: one pass over a packed game gives every turn's
   log-probability exactly only when all its turns share one order of images.
2. Negatives are downsampled per batch, as the paper says, among the games of the batch; a batch takes about its
   share of the epoch's positives, so no batch has negatives alone.
3. A turn in which nothing was clicked (`nothing`) is context only: the policy never draws it, since every legal
   action clicks something.
4. Turns after the last kept turn of a game are cut from its pass: they cannot change an earlier turn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from respect_core import actions
from respect_core.interaction import FEEDBACK_SCHEMA, TRAINING_SET_SCHEMA, TURNS_SCHEMA, Interaction, interactions
from respect_core.rehearsal import rehearsal, training_row
from respect_core.variants import Objective, TrainingConfig, Variant

TurnKey = tuple[str, int]
"""(interaction_id, turn)."""


# --- the training set of a variant ------------------------------------------------------------------------------


def eligible(turns: pa.Table, feedback: pa.Table, variant: Variant) -> dict[TurnKey, int]:
    """Turns that `variant` learns from, with their labels (section 5, System Variants).

    FFT takes positive turns; RL and KTO take positive and negative ones. Never eligible: neutral turns, turns
    without a follow-up (footnote 3), and `nothing`. Feedback of the other decoder is not looked at.

    Raises:
        ValueError: a table of another schema, or two labels for one turn.
    """
    _require_schema(turns, TURNS_SCHEMA, "turns")
    _require_schema(feedback, FEEDBACK_SCHEMA, "feedback")
    decoded: dict[TurnKey, int] = {}
    for row in feedback.select(["interaction_id", "turn", "decoder", "label"]).to_pylist():
        if row["decoder"] != variant.decoder:
            continue
        key = (row["interaction_id"], row["turn"])
        if decoded.setdefault(key, row["label"]) != row["label"]:
            raise ValueError(f"feedback has two {variant.decoder} labels for turn {key[1]} of {key[0]}")
    wanted = {1} if variant.objective is Objective.FFT else {1, -1}
    labels: dict[TurnKey, int] = {}
    for row in turns.select(["interaction_id", "turn", "follow_up", "action"]).to_pylist():
        key = (row["interaction_id"], row["turn"])
        label = decoded.get(key)
        if label in wanted and row["follow_up"] is not None and row["action"] != actions.NOTHING:
            labels[key] = label
    return labels


def training_set(
    turns: pa.Table,
    feedback: pa.Table,
    d0: pa.Table,
    variant: Variant | None,
    *,
    deselection_ratio: float = 1 / 12,
    d0_right: frozenset[TurnKey] | None = None,
    seed: int = 0,
) -> pa.Table:
    """The training set of a variant: games with an eligible turn, then D0 with its augmentation.

    Args:
        turns: all rounds so far of this variant's deployments, with the round it started from (section 4).
        feedback: decoded feedback for them.
        d0: the turns of D0, rehearsed in every round; empty to leave it out.
        variant: None for the seed policy, which learns from D0 alone.
        deselection_ratio, d0_right, seed: see `rehearsal`.

    Returns:
        A table in TRAINING_SET_SCHEMA, in order of interaction and turn; the same inputs give the same table.
        `label` is null where a turn is context only.

    Raises:
        ValueError: a table of another schema (so neither targets nor outcomes can come in), or a game in both
            `turns` and `d0`.
    """
    _require_schema(d0, TURNS_SCHEMA, "D0")
    labels = {} if variant is None else eligible(turns, feedback, variant)
    games = {interaction_id for interaction_id, _ in labels}
    rows = [row for row in turns.to_pylist() if row["interaction_id"] in games] if games else []
    rows.sort(key=lambda row: (row["interaction_id"], row["turn"]))
    result = [training_row(row, label=labels.get((row["interaction_id"], row["turn"])), source="round") for row in rows]
    rehearsed = rehearsal(d0.to_pylist(), deselection_ratio=deselection_ratio, right=d0_right, seed=seed)
    both = sorted(games & {row["interaction_id"] for row in rehearsed})
    if both:
        raise ValueError(f"{len(both)} games are in the turns table and in D0, e.g. {both[0]}; keep each in one")
    return pa.Table.from_pylist(result + rehearsed, schema=TRAINING_SET_SCHEMA)


def _require_schema(table: pa.Table, schema: pa.Schema, name: str) -> None:
    """A table with a column more, such as `targets`, is refused rather than read in part."""
    if table.schema.names != schema.names:
        extra = sorted(set(table.schema.names) - set(schema.names))
        missing = sorted(set(schema.names) - set(table.schema.names))
        raise ValueError(f"this is no {name} table: columns not in its schema {extra}, columns missing {missing}")


# --- propensity -------------------------------------------------------------------------------------------------


def require_probability(data: pa.Table | Sequence[Example], objective: Objective) -> None:
    """Raise unless every turn of a training set that needs p has it: negatives under RL (equation 2).

    FFT has no use for p, and KTO takes the reference of a turn without p from the adapter it starts from.

    Raises:
        ValueError: names the turns and the remedies.
    """
    if objective is not Objective.RL:
        return
    if isinstance(data, pa.Table):
        data = examples(data)
    lacking = [
        f"{example.interaction.interaction_id} turn {number}"
        for example in data
        for number, (turn, label) in enumerate(zip(example.interaction.turns, example.labels, strict=True))
        if label == -1 and turn.probability is None
    ]
    if lacking:
        more = f" and {len(lacking) - 10} more" if len(lacking) > 10 else ""
        raise ValueError(
            f"RL needs the probability p of every negative turn, and {len(lacking)} have none: "
            f"{', '.join(lacking[:10])}{more}. Compute it under the policy that acted with --propensity backfill (its "
            "adapter must be known), or under the policy at hand with --propensity surrogate; or train FFT or KTO, "
            "which do without."
        )


def fill_probability(table: pa.Table, probability: Mapping[TurnKey, float]) -> pa.Table:
    """The table with p filled in from `probability` where it was null. Logged values stay.

    Raises:
        ValueError: a probability outside (0, 1].
    """
    wrong = {key: p for key, p in probability.items() if not 0 < p <= 1}
    if wrong:
        key, p = next(iter(wrong.items()))
        raise ValueError(f"probability {p} of turn {key[1]} of {key[0]} is outside (0, 1]")
    filled = [
        logged if logged is not None else probability.get((interaction_id, turn))
        for interaction_id, turn, logged in zip(
            *(table[name].to_pylist() for name in ("interaction_id", "turn", "probability")), strict=True
        )
    ]
    position = table.schema.get_field_index("probability")
    return table.set_column(position, table.schema.field(position), pa.array(filled, pa.float64()))


# --- the batches of an epoch ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """A game and the label of each of its turns: +1, -1, or None for context."""

    interaction: Interaction
    labels: tuple[int | None, ...]

    def count(self, label: int) -> int:
        return self.labels.count(label)


@dataclass(frozen=True)
class Game:
    """A game as one batch uses it.

    `labels` has None for turns not kept; the interaction ends with the last kept turn. `permutation[k]` is the
    place, in the logged order, of the image that now stands k-th.
    """

    interaction: Interaction
    labels: tuple[int | None, ...]
    permutation: tuple[int, ...]

    @property
    def kept(self) -> tuple[int, ...]:
        return tuple(turn for turn, label in enumerate(self.labels) if label is not None)


@dataclass(frozen=True)
class Batch:
    """The games of one optimizer step."""

    games: tuple[Game, ...]

    def count(self, label: int) -> int:
        return sum(game.labels.count(label) for game in self.games)

    @property
    def turns(self) -> int:
        """Turns with a loss."""
        return sum(len(game.kept) for game in self.games)


def examples(table: pa.Table) -> list[Example]:
    """The games of a training set, in order of their ids.

    Raises:
        ValueError: a table of another schema, or turns not numbered 0, 1, 2, ...
    """
    _require_schema(table, TRAINING_SET_SCHEMA, "training set")
    rows: list[dict[str, Any]] = table.to_pylist()
    labels = {(row["interaction_id"], row["turn"]): row["label"] for row in rows}
    return [
        Example(game, tuple(labels[game.interaction_id, turn] for turn in range(len(game.turns))))
        for game in interactions(rows)
    ]


def plan_epoch(data: Sequence[Example], config: TrainingConfig, seed: int, epoch: int) -> list[Batch]:
    """The batches of an epoch: whole games, every positive once, negatives drawn anew at 5:4 or fewer.

    Games come in random order. With K turns to keep in all, there are about K / `config.batch_turns` batches, each
    with its share of the positives as whole games allow. In each batch, negatives are drawn without replacement
    until positives to negatives are at `config.positive_to_negative` (appendix B.3); under FFT none are kept.
    Games without a kept turn are left out. Neutral labels are never kept.
    """
    random = np.random.default_rng([seed, epoch])
    order = [data[int(place)] for place in random.permutation(len(data))]
    positives = sum(example.count(1) for example in order)
    if positives == 0:
        return []
    kept = positives + min(sum(example.count(-1) for example in order), _allowed_negatives(positives, config))
    size = max(1, round(kept / config.batch_turns))
    shares: list[list[Example]] = [[] for _ in range(size)]
    before = 0
    for example in order:
        shares[min(before * size // positives, size - 1)].append(example)
        before += example.count(1)
    batches = [_draw(share, config, random) for share in shares]
    return [batch for batch in batches if batch.games]


def _allowed_negatives(positives: int, config: TrainingConfig) -> int:
    if config.objective is Objective.FFT:
        return 0
    return math.floor(positives / config.positive_to_negative + 1e-9)  # 4 for 5, whatever 5 / 1.25 rounds to


def _draw(share: Sequence[Example], config: TrainingConfig, random: np.random.Generator) -> Batch:
    negatives = [(g, t) for g, example in enumerate(share) for t, label in enumerate(example.labels) if label == -1]
    allowed = _allowed_negatives(sum(example.count(1) for example in share), config)
    drawn = {negatives[place] for place in random.permutation(len(negatives))[:allowed]}
    games = []
    for g, example in enumerate(share):
        labels = [
            label if label == 1 or (label == -1 and (g, t) in drawn) else None for t, label in enumerate(example.labels)
        ]
        permutation = tuple(int(place) for place in random.permutation(len(example.interaction.context)))
        while labels and labels[-1] is None:
            labels.pop()
        if labels:
            cut = replace(example.interaction, turns=example.interaction.turns[: len(labels)])
            games.append(Game(cut, tuple(labels), permutation))
    return Batch(tuple(games))
