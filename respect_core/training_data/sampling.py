"""Divide a training set into the batches of an epoch: 5:4, and shuffled images (section 5, appendices B.1 and B.3).

Deviations from the paper, and why:
1. Images are shuffled once per game and epoch, not once per turn: one pass over a packed game gives every turn's
   log-probability exactly only if all its turns share one order of images.
2. Negatives are downsampled per batch, as the paper says, among the games of the batch; a batch takes about its
   share of the epoch's positives, so no batch has only negatives.
3. Turns after the last kept turn of a game are cut from its pass: they cannot change an earlier turn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from respect_core.interaction import Interaction, interactions
from respect_core.schemas import TRAINING_SET_SCHEMA
from respect_core.variants import Objective, TrainingConfig


@dataclass(frozen=True)
class Example:
    """A game and the label of each of its turns: +1, -1, or None for context. `rehearsed`: the game is from D0."""

    interaction: Interaction
    labels: tuple[int | None, ...]
    rehearsed: bool = False

    def count(self, label: int) -> int:
        return self.labels.count(label)


@dataclass(frozen=True)
class Game:
    """A game as one batch uses it.

    `labels` has None for turns without a loss; the interaction ends with the last turn that has one. `permutation[k]`
    is the place, in the logged order, of the image that is now k-th.
    """

    interaction: Interaction
    labels: tuple[int | None, ...]
    permutation: tuple[int, ...]
    rehearsed: bool = False

    @property
    def kept(self) -> tuple[int, ...]:
        """Numbers of the turns with a loss."""
        return tuple(turn for turn, label in enumerate(self.labels) if label is not None)


@dataclass(frozen=True)
class Batch:
    """The games of one optimizer step."""

    games: tuple[Game, ...]

    def count(self, label: int) -> int:
        return sum(game.labels.count(label) for game in self.games)

    @property
    def turns(self) -> int:
        """Number of turns with a loss."""
        return sum(len(game.kept) for game in self.games)


def examples(table: pa.Table) -> list[Example]:
    """Return the games of a training set, in order of their ids.

    Raises:
        ValueError: a table of another schema, or turns not numbered 0, 1, 2, ...
    """
    require_schema(table, TRAINING_SET_SCHEMA, "training set")
    rows: list[dict[str, Any]] = table.to_pylist()
    labels = {(row["interaction_id"], row["turn"]): row["label"] for row in rows}
    rehearsed = {row["interaction_id"] for row in rows if row["source"] != "round"}
    return [
        Example(
            game,
            tuple(labels[game.interaction_id, turn] for turn in range(len(game.turns))),
            game.interaction_id in rehearsed,
        )
        for game in interactions(rows)
    ]


def require_probability(data: Sequence[Example], objective: Objective) -> None:
    """Raise unless every turn of a training set that needs p has it: negatives under RL (equation 2).

    FFT does not use p, and KTO takes the reference of a turn without p from the adapter it starts from.

    Raises:
        ValueError: p is missing; the message names the turns and the remedies.
    """
    if objective is not Objective.RL:
        return
    lacking = [
        turn_name(example.interaction.interaction_id, number)
        for example in data
        for number, (turn, label) in enumerate(zip(example.interaction.turns, example.labels, strict=True))
        if label == -1 and turn.propensity is None
    ]
    refuse_without_probability(lacking, len(lacking))


NAMED = 10
"""Most turns that an error names."""


def turn_name(interaction_id: str, turn: int) -> str:
    return f"{interaction_id} turn {turn}"


def refuse_without_probability(names: Sequence[str], count: int) -> None:
    """Raise ValueError if any turn lacks its p: `count` turns do, and `names` are the first of them."""
    if not count:
        return
    more = f" and {count - NAMED} more" if count > NAMED else ""
    raise ValueError(
        f"RL needs the probability p of every negative turn, and {count} have none: "
        f"{', '.join(names[:NAMED])}{more}. Compute it under the policy that acted with --propensity backfill (its "
        "adapter must be known), or under the policy at hand with --propensity surrogate; or train FFT or KTO, "
        "which do without."
    )


def plan_epoch(data: Sequence[Example], config: TrainingConfig, seed: int, epoch: int) -> list[Batch]:
    """Plan the batches of an epoch: whole games, every positive once, negatives drawn again at 5:4 or fewer.

    Games come in random order. With K turns to keep, there are about K / `config.batch_turns` batches, each with its
    share of the positives as far as whole games allow. In each batch, negatives are drawn without replacement until the
    ratio of positives to negatives is `config.positive_to_negative` (appendix B.3); FFT keeps none. Rehearsed positives
    do not count here: the ratio is about decoded feedback.
    Games without a kept turn are left out. Neutral turns are never kept.
    """
    random = np.random.default_rng([seed, epoch])
    positives_N, negatives_N = (np.array([example.count(label) for example in data], int) for label in (1, -1))
    rehearsed_N = np.array([example.rehearsed for example in data], bool)
    shares = _shares(positives_N, negatives_N, rehearsed_N, config, random)
    batches = [_draw([data[place] for place in share], config, random) for share in shares]
    return [batch for batch in batches if batch.games]


def count_epoch(
    positives_N: NDArray[np.int64],
    negatives_N: NDArray[np.int64],
    rehearsed_N: NDArray[np.bool_],
    config: TrainingConfig,
    seed: int,
    epoch: int,
) -> tuple[int, int]:
    """Count turns with a loss in `plan_epoch`, and the negatives among them, from the games' labels alone."""
    shares = _shares(positives_N, negatives_N, rehearsed_N, config, np.random.default_rng([seed, epoch]))
    decoded_N = np.where(rehearsed_N, 0, positives_N)
    drawn = sum(
        min(int(negatives_N[share].sum()), _allowed_negatives(int(decoded_N[share].sum()), config)) for share in shares
    )
    return int(positives_N.sum()) + drawn, drawn


def _shares(
    positives_N: NDArray[np.int64],
    negatives_N: NDArray[np.int64],
    rehearsed_N: NDArray[np.bool_],
    config: TrainingConfig,
    random: np.random.Generator,
) -> list[NDArray[np.int64]]:
    """Return the places of each batch's games; no batches if there are no positives."""
    order_N = random.permutation(len(positives_N))
    positives = int(positives_N.sum())
    if positives == 0:
        return []
    turns = positives + min(int(negatives_N.sum()), _allowed_negatives(int(positives_N[~rehearsed_N].sum()), config))
    batches = max(1, round(turns / config.batch_turns))
    # A game's batch follows from the positives in the games before it, so that every batch has its share of them.
    before_N = np.cumsum(positives_N[order_N]) - positives_N[order_N]
    batch_N = np.minimum(before_N * batches // positives, batches - 1)  # never falls
    return np.split(order_N, np.searchsorted(batch_N, np.arange(1, batches)))


def _allowed_negatives(positives: int, config: TrainingConfig) -> int:
    if config.objective is Objective.FFT:
        return 0
    return math.floor(positives / config.positive_to_negative + 1e-9)  # 4 for 5, however 5 / 1.25 is rounded


def _draw(share: Sequence[Example], config: TrainingConfig, random: np.random.Generator) -> Batch:
    """Draw the negatives of a batch and the order of its images."""
    negatives = [(g, t) for g, example in enumerate(share) for t, label in enumerate(example.labels) if label == -1]
    allowed = _allowed_negatives(sum(example.count(1) for example in share if not example.rehearsed), config)
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
            games.append(Game(cut, tuple(labels), permutation, example.rehearsed))
    return Batch(tuple(games))


def require_schema(table: pa.Table | pa.RecordBatch, schema: pa.Schema, name: str) -> None:
    """Raise ValueError unless a table has the columns of its schema, no more (such as `targets`) and no fewer."""
    if table.schema.names != schema.names:
        extra = sorted(set(table.schema.names) - set(schema.names))
        missing = sorted(set(schema.names) - set(table.schema.names))
        raise ValueError(f"this is no {name} table: columns not in its schema {extra}, columns missing {missing}")
