"""Read and measure one policy's games of one round: one partition of the tables.

FOR MEASURING ONLY: this reads outcomes and labels derived from targets.

Deviations from the paper, numbered as they are cited elsewhere:
1. If no turn was annotated, the decoder is measured against users' own thumbs or, without any, labels derived from
   the targets (`measuring.labels`). The paper's figure 6 is against annotators' judgements of the speaker's
   satisfaction, which is another question: `Decoded.against` tells them apart.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from math import isnan
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from pyarrow import RecordBatch

from respect_core.feedback.reviews import REVIEW
from respect_core.interaction import TurnKey
from respect_core.measuring.decoder_metrics import (
    Calibration,
    Confusion,
    LabelFigures,
    by_label,
    calibration,
    confusion,
)
from respect_core.measuring.follow_ups import FollowUps, follow_ups
from respect_core.measuring.judge import ImageSimilarity, Words, judge, words
from respect_core.measuring.language import Language, language
from respect_core.measuring.metrics import Counts, Figures, counts, figures
from respect_core.measuring.turn_metrics import LABELS as SATISFACTION_LABELS
from respect_core.measuring.turn_metrics import (
    Agreement,
    AnnotatedTurn,
    TurnFigures,
    agreement,
    first_annotations,
    turn_figures,
)
from respect_core.measuring.users import UserShares, user_shares
from respect_core.stats import Estimate
from respect_core.store.base import Store
from respect_core.store.manifests import Partition, read_manifest
from respect_core.store.tables import iter_batches, read_table
from respect_core.variants import DecoderKind

Context = tuple[tuple[str, ...], tuple[str, ...]]
"""A game's images and its targets, each sorted by name."""


class TurnRow(NamedTuple):
    """The columns read of a turn, as a tuple: there may be millions, and a dictionary is four times the size."""

    interaction_id: str
    turn: int
    scenario: str
    user: str
    context: tuple[str, ...]
    state: str
    utterance: str
    action: str
    policy_name: str
    policy_version: str
    explicit: int | None = None


class OutcomeRow(NamedTuple):
    """The columns read of an outcome."""

    interaction_id: str
    targets: tuple[str, ...] | None
    success: bool | None
    turns: int
    started_at: str


class LabelRow(NamedTuple):
    """The columns read of a turn's feedback by one decoder."""

    interaction_id: str
    turn: int
    decoder: str
    label: int
    score: float
    decoder_model: str
    decoder_revision: str


Row = TypeVar("Row", TurnRow, OutcomeRow, LabelRow)


@dataclass(frozen=True)
class Decoded:
    """One decoder's labels of a policy's turns, and how they compare with actual labels (see deviation 1)."""

    negative: int
    neutral: int
    positive: int
    against: Literal["annotations", "thumbs", "targets"] | None = None  # None: there are no actual labels
    confusion: Confusion | None = None
    calibration: Calibration | None = None
    by_label: Mapping[int, LabelFigures] = field(default_factory=dict)  # -1 and +1; not of the paper's scenario


@dataclass(frozen=True)
class PolicyRound:
    """Figures of one policy in one round. Those that were not logged, decoded or annotated are None, or absent."""

    figures: Figures | None = None
    language: Language | None = None
    decoded: Mapping[str, Decoded] = field(default_factory=dict)
    turn_figures: TurnFigures | None = None
    agreement: Agreement | None = None
    users: UserShares | None = None
    follow_ups: FollowUps | None = None
    by_version: Mapping[str, FollowUps] = field(default_factory=dict)  # of the policy that acted, e.g. respect.b-fft/3

    def figure(self, name: str) -> Estimate | int | None:
        """Return a figure of a part, such as `figures` or `language`, by its name; None if there is none."""
        parts = (self.figures, self.language, self.turn_figures, self.follow_ups)
        value: Estimate | int | None = next((getattr(part, name) for part in parts if hasattr(part, name)), None)
        return value


@dataclass(frozen=True)
class GameTotals:
    """Totals of a partition, to compare it with others after its rows are dropped."""

    by_context: Mapping[Context, Sequence[float]]  # metrics.COLUMNS, mean over the games of the context
    utterances: Sequence[Sequence[str]]  # of each game
    labels: Mapping[str, Sequence[Sequence[int]]]  # decoder -> labels of each game, or of each user (`Rows.unit`)
    annotated: Sequence[AnnotatedTurn]
    turns: int
    users: frozenset[str]
    starts: Sequence[str]  # ISO 8601
    scenarios: Mapping[str, int]  # turns by scenario
    decoders: frozenset[str]


@dataclass(frozen=True)
class Rows:
    """The rows of a partition: turns in order, outcomes by interaction id, feedback, annotations by annotator."""

    turns: Sequence[TurnRow]
    outcomes: Mapping[str, OutcomeRow]
    feedback: Sequence[LabelRow]
    annotations: Sequence[Mapping[str, Any]]

    def utterances(self) -> dict[str, list[str]]:
        """Return the utterances of each game, by interaction id."""
        by_game: dict[str, list[str]] = defaultdict(list)
        for row in self.turns:
            by_game[row.interaction_id].append(row.utterance)
        return by_game

    @property
    def words(self) -> Words:
        """What reports call the parts of these interactions."""
        return words(self.turns[0].scenario) if self.turns else Words()

    def unit(self) -> Mapping[str, str]:
        """Map each game to what is resampled of its feedback: the game as in the paper, its user in conversations."""
        paper = self.words.paper
        return {row.interaction_id: row.interaction_id if paper else row.user for row in self.turns}

    def counts(self) -> Counts:
        """Count `metrics.COLUMNS` of every game that has an outcome, in order of interaction id."""
        return counts((row._asdict() for row in self.turns), (row._asdict() for row in self.outcomes.values()))

    def totals(self) -> GameTotals:
        """Summarise the games, so that the rows can be dropped."""
        contexts = {row.interaction_id: tuple(sorted(row.context)) for row in self.turns}
        finished = sorted(key for key, row in self.outcomes.items() if row.success is not None)
        by_context: dict[Context, list[list[int]]] = defaultdict(list)
        for key, columns in zip(finished, self.counts().tolist(), strict=True):
            targets = tuple(sorted(self.outcomes[key].targets or ()))
            if key in contexts and (contexts[key] or targets):  # the same task, not just another conversation
                by_context[contexts[key], targets].append(columns)
        labels: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        unit = self.unit()
        for row in self.feedback:
            labels[row.decoder][unit.get(row.interaction_id, row.interaction_id)].append(row.label)
        return GameTotals(
            by_context={context: np.mean(games, axis=0).tolist() for context, games in by_context.items()},
            utterances=list(self.utterances().values()),
            labels={decoder: list(games.values()) for decoder, games in labels.items()},
            annotated=_annotated_turns(self),
            turns=len(self.turns),
            users=frozenset(row.user for row in self.turns),
            starts=[row.started_at for row in self.outcomes.values()],
            scenarios=Counter(row.scenario for row in self.turns),
            decoders=frozenset(f"{row.decoder_model} ({row.decoder_revision[:12]})" for row in self.feedback),
        )


def read_rows(store: Store, partition: Partition) -> Rows:
    """Read a partition of all tables. Raises TableError and StoreError as reading tables does."""
    where, pool = ([partition.round], [partition.variant]), _ValuePool()
    has_annotations = read_manifest(store, "annotations", *partition) is not None
    answers = read_table(store, "annotations", *where).to_pylist() if has_annotations else []
    annotations = [row for row in answers if row["source"] != REVIEW]  # which are not drawn plainly at random
    return Rows(
        sorted(pool.rows(TurnRow, iter_batches(store, "turns", *where, TurnRow._fields))),
        {
            row.interaction_id: row
            for row in pool.rows(OutcomeRow, iter_batches(store, "outcomes", *where, OutcomeRow._fields))
        },
        list(pool.rows(LabelRow, iter_batches(store, "feedback", *where, LabelRow._fields))),
        sorted(annotations, key=lambda row: (row["interaction_id"], row["turn"], row["annotator"])),
    )


class _ValuePool:
    """Values of rows, each in memory once however many rows have it."""

    def __init__(self) -> None:
        self._values: dict[Any, Any] = {}

    def rows(self, kind: type[Row], batches: Iterable[RecordBatch]) -> Iterator[Row]:
        for batch in batches:
            columns = (map(self._same, batch.column(name).to_pylist()) for name in kind._fields)
            yield from map(kind._make, zip(*columns, strict=True))

    def _same(self, value: Any) -> Any:
        """Return the pooled equal of a value, lists as tuples; numbers are returned as they are."""
        if isinstance(value, list):
            value = tuple(map(self._same, value))
        return self._values.setdefault(value, value) if isinstance(value, str | tuple) else value


def cell(rows: Rows, f: ImageSimilarity | None = None) -> PolicyRound:
    """Compute all figures of a partition.

    Args:
        f: similarity of images for equation 3; without it there are no similarities.
    """
    games, utterances, annotated = rows.counts(), list(rows.utterances().values()), _annotated_turns(rows)
    return PolicyRound(
        figures=figures([games]) if len(games) else None,
        language=language(utterances) if utterances else None,
        decoded=compare_decoders(rows),
        turn_figures=turn_figures(annotated, f) if any(turn.right is not None for turn in annotated) else None,
        agreement=agreement(annotated) if annotated else None,
        users=user_shares(Counter(row.user for row in rows.turns)) if rows.turns else None,
        **_follow_ups(rows),
    )


def _follow_ups(rows: Rows) -> dict[str, Any]:
    """Measure decoded follow-ups, of all and by version, by the ternary decoder if there is one.

    Not for the paper's scenario, whose reports have figure 6 in their place.
    """
    decoders = {row.decoder for row in rows.feedback}
    if rows.words.paper or not decoders:
        return {}
    decoder = (DecoderKind.TERNARY if DecoderKind.TERNARY in decoders else DecoderKind.BINARY).value
    acted = {row.interaction_id: (row.user, _version(row)) for row in rows.turns}
    labelled = [
        (*acted[row.interaction_id], row.label)
        for row in rows.feedback
        if row.decoder == decoder and row.interaction_id in acted
    ]

    def measured(version: str | None = None) -> FollowUps | None:
        chosen = [(user, label) for user, acting, label in labelled if version in (None, acting)]
        users, labels = zip(*chosen, strict=True) if chosen else ((), ())
        return follow_ups(users, labels, has_neutral=decoder == DecoderKind.TERNARY)

    by_version = {version: measured(version) for version in sorted({version for _, version, _ in labelled})}
    return {"follow_ups": measured(), "by_version": {version: each for version, each in by_version.items() if each}}


def _version(row: TurnRow) -> str:
    return row.policy_name if row.policy_version == "unknown" else f"{row.policy_name}/{row.policy_version}"


def _annotated_turns(rows: Rows) -> list[AnnotatedTurn]:
    """Return annotations with their turns, in the order of annotators; those of unknown turns are left out."""
    if not rows.annotations:
        return []
    turns = {(row.interaction_id, row.turn): row for row in rows.turns}
    return [
        AnnotatedTurn(
            row["interaction_id"],
            row["turn"],
            turn.scenario,
            turn.context,
            turn.state,
            turn.action,
            row["intended"],
            row["satisfaction"],
            row["annotator"],
            row["correct"],
        )
        for row in rows.annotations
        if (turn := turns.get((row["interaction_id"], row["turn"]))) is not None
    ]


def compare_decoders(rows: Rows) -> dict[str, Decoded]:
    """Compare each decoder with actual labels; turns without an actual label are only counted."""
    satisfaction = {
        (turn.interaction_id, turn.turn): SATISFACTION_LABELS[turn.satisfaction]
        for turn in first_annotations(_annotated_turns(rows))
        if turn.satisfaction is not None
    }
    thumbs = {(row.interaction_id, row.turn): row.explicit for row in rows.turns if row.explicit is not None}
    actual = satisfaction or thumbs or _target_labels(rows)
    by_decoder: dict[str, list[LabelRow]] = defaultdict(list)
    for row in rows.feedback:
        by_decoder[row.decoder].append(row)
    comparisons = {}
    for decoder, feedback in sorted(by_decoder.items()):
        labels = [row.label for row in feedback]
        compared = [row for row in feedback if (row.interaction_id, row.turn) in actual]
        actual_labels = [actual[row.interaction_id, row.turn] for row in compared]
        games = [row.interaction_id for row in compared]
        comparisons[decoder] = Decoded(
            negative=labels.count(-1),
            neutral=labels.count(0),
            positive=labels.count(1),
            against=("annotations" if satisfaction else "thumbs" if thumbs else "targets") if compared else None,
            confusion=confusion(actual_labels, [row.label for row in compared], decoder, games) if compared else None,
            calibration=_calibration(compared, actual_labels),
            by_label=by_label(actual_labels, [row.label for row in compared], games)
            if compared and not rows.words.paper
            else {},
        )
    return comparisons


def _calibration(feedback: Sequence[LabelRow], actual: Sequence[int]) -> Calibration | None:
    """Compute the calibration, or None without scores: the released data has NaN in their place."""
    has_score = [not isnan(row.score) for row in feedback]
    if not any(has_score):
        return None
    rows = list(compress(feedback, has_score))
    labels = list(compress(actual, has_score))
    return calibration([row.score for row in rows], labels, [row.interaction_id for row in rows])


def _target_labels(rows: Rows) -> dict[TurnKey, int]:
    labels = {}
    for row in rows.turns:
        outcome = rows.outcomes.get(row.interaction_id)
        if outcome is not None and outcome.targets is not None:
            label = judge(row.scenario).label(row.action, row.context, outcome.targets)
            labels[row.interaction_id, row.turn] = label
    return labels
