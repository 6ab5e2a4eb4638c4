"""What tasks pass to each other: small references to data in the store, in scratch or in MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Reference(BaseModel):
    model_config = ConfigDict(frozen=True)


class ExportedRef(_Reference):
    """The turns and outcomes of a round, over all its variants."""

    round: int
    variants: list[str]
    games: int
    turns: int
    turns_with_followup: int
    set_aside: int
    seconds: float


class DecoderFigures(_Reference):
    """Figures of one decoder in a round. Those that need targets are None without them.

    `marked` turns contain something that could be taken for the decoder's prompt, and nobody learns from them; of `cut`
    turns the decoder read only the beginning and the end. `unreadable` turns have characters that the policy's
    vocabulary lacks; None if they were not counted.

    `precision` and `recall` are those of positives at the shipped thresholds; `cross_validated` has them with the
    threshold chosen out of fold. A partly correct turn counts as wrong. `thumbs` compares labels with users' own
    thumbs, where the round has any: precision and recall there are those of negatives. `reviewed` has what people who
    reviewed follow-ups say of it (`measuring.review.estimates.Reviewed`), if anybody did.
    """

    positive: int
    neutral: int
    negative: int
    low_margin: int
    marked: int
    cut: int
    unreadable: int | None
    confusion: dict[str, dict[str, int]] | None
    precision: float | None
    recall: float | None
    cross_validated: dict[str, Any] | None
    auc: float | None
    thumbs: dict[str, Any] | None = None
    reviewed: dict[str, Any] | None = None
    turns_per_second: float | None  # None if every turn had been decoded before


class FeedbackRef(_Reference):
    """The feedback table of a round."""

    round: int
    decoders: dict[str, DecoderFigures]
    seconds: float


class TrainingSetRef(_Reference):
    """A partition of training_sets/."""

    variant: str
    round: int
    data_hash: str  # over the partition's content: equal hashes, equal training
    train_turns: int  # positives plus negatives with a loss in one epoch, rehearsal included
    positives: int
    negatives: int
    negatives_used: int  # in one epoch, after 5:4
    rehearsal_turns: int
    by_people: int = 0  # of positives and negatives, those that people labelled in a review
    probabilities: dict[str, int]  # turns by where p came from: logged, backfill or surrogate, none
    left_out: dict[str, int] = {}  # labelled turns that users' limits made context: by quarantine, repeated, ...
    warnings: list[str] = []  # anything unusual about it


class TrainedRef(_Reference):
    """One seed's checkpoints, in a directory with result.json and history.jsonl."""

    variant: str
    seed: int
    directory: Path
    seconds: float


class SelectedRef(_Reference):
    """The checkpoint chosen for a variant."""

    variant: str
    seed: int
    step: int
    exact_match: float
    sampled_match: float  # the figure that it was chosen by
    validation_turns: int
    illegal_actions: int
    adapter: Path
    adapter_hash: str
    trained: list[TrainedRef]  # all seeds

    @property
    def seconds(self) -> float:
        """Training time over all seeds."""
        return sum(trained.seconds for trained in self.trained)


class RegisteredRef(_Reference):
    """A version in the MLflow registry."""

    variant: str
    model: str
    version: str
    run_id: str
    adapter_hash: str


class PlayedRef(_Reference):
    """Figures of games that a policy played. Constrained decoding writes no illegal action, so none are counted."""

    variant: str
    counts: dict[str, list[int]] = Field(
        description="respect_core.measuring.metrics.COLUMNS of each game, by id of its context"
    )
    seconds: float

    @property
    def games(self) -> int:
        return len(self.counts)

    @property
    def success(self) -> float:
        return self._mean(0)

    @property
    def turns_per_game(self) -> float:
        return self._mean(1)

    def _mean(self, column: int) -> float:
        return sum(game[column] for game in self.counts.values()) / len(self.counts)


class EvaluatedRef(_Reference):
    """A policy on the correct turns of a game set: (interaction id, turn, whether it matched) of each.

    `finite`: whether every probability that it gives to an action of the set is a number.
    """

    policy: RegisteredRef
    turns: list[tuple[str, int, bool | float]]
    illegal_actions: int
    finite: bool = True
    seconds: float


class SearchedRef(_Reference):
    """A point of a search: its changes in words, and its best checkpoint's figures on the validation set."""

    name: str
    sampled_match: float  # what its checkpoint was chosen by
    exact_match: float
    illegal_actions: int
    validation_turns: int
    seconds: float  # of training, over all seeds
    run_id: str


class PropensityRef(_Reference):
    """Probabilities computed for a partition of turns that lacked them."""

    round: int
    variant: str
    source: str  # backfill | surrogate
    key: str  # in the store; JSON: interaction id -> p per turn


class PreviewRef(_Reference):
    """What the gate would say of a candidate. `promote`: None if that is not known, for the given reason."""

    exact_match_ci95: list[float] | None
    promote: bool | None
    reasons: list[str]
    figures: dict[str, float | int | str] = {}


class DecodedRef(_Reference):
    """Everything that a round learns from besides the turns themselves."""

    feedback: FeedbackRef
    propensities: list[PropensityRef]


class LearnedRef(_Reference):
    """A variant from its training set to its registered version."""

    training_set: TrainingSetRef
    selected: SelectedRef
    registered: RegisteredRef
    guard_rails: dict[str, float] | None = None  # of a scenario of free text


class TasteRef(_Reference):
    """Turns of a game set whose replies users liked or disliked, and how that is known."""

    data_hash: str
    liked: list[tuple[str, int]]
    thumbs_down: list[tuple[str, int]]
    decoded_negative: list[tuple[str, int]]

    @property
    def scored(self) -> list[tuple[str, int]]:
        """All of them."""
        return [*self.liked, *self.thumbs_down, *self.decoded_negative]


class MeasuredRef(_Reference):
    """A policy on such turns: log-likelihood per token of each reply, and its own replies to the prompts."""

    policy: RegisteredRef
    logp: list[float]
    replies: list[str]
    seconds: float = 0.0
