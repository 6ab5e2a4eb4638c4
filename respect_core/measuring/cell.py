"""One policy's games of one round, and what they show: a partition of the tables read and measured.

FOR MEASURING ONLY: outcomes and labels derived from targets come in.

Deviations from the paper, numbered as they are cited elsewhere:
1. Where no turn was annotated, the decoder is measured against labels derived from the targets
   (`measuring.labels`). The paper's figure 6 is against annotators' judgements of the speaker's satisfaction, which
   is another question: `Decoded.against` says which it is.
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

from respect_core.interaction import TurnKey
from respect_core.measuring.decoder_metrics import Calibration, Confusion, calibration, confusion
from respect_core.measuring.judge import ImageSimilarity, judge
from respect_core.measuring.language import Language, language
from respect_core.measuring.metrics import Counts, Figures, counts, figures
from respect_core.measuring.turn_metrics import LABELS as SATISFIED
from respect_core.measuring.turn_metrics import (
    Agreement,
    AnnotatedTurn,
    TurnFigures,
    agreement,
    ground_truth,
    turn_figures,
)
from respect_core.measuring.users import UserShares, user_shares
from respect_core.store.base import Store
from respect_core.store.manifests import Partition, read_manifest
from respect_core.store.tables import iter_batches, read_table

Context = tuple[tuple[str, ...], tuple[str, ...]]
"""What a game is about: its images and its targets, each in order of name."""


class TurnRow(NamedTuple):
    """What is read of a turn. Tuples, because there may be millions: a dictionary has four times their size."""

    interaction_id: str
    turn: int
    scenario: str
    user: str
    context: tuple[str, ...]
    state: str
    utterance: str
    action: str


class OutcomeRow(NamedTuple):
    """What is read of an outcome."""

    interaction_id: str
    targets: tuple[str, ...] | None
    success: bool | None
    turns: int
    started_at: str


class LabelRow(NamedTuple):
    """What is read of a turn's feedback by one decoder."""

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
    """What one decoder said about a policy's turns, and how that fits what they were (see deviation 1)."""

    negative: int
    neutral: int
    positive: int
    against: Literal["annotations", "targets"] | None = None  # None: there is nothing to compare with
    confusion: Confusion | None = None
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Cell:
    """One policy in one round. What was not logged, decoded or annotated is None, or absent."""

    figures: Figures | None = None
    language: Language | None = None
    decoded: Mapping[str, Decoded] = field(default_factory=dict)
    turn_figures: TurnFigures | None = None
    agreement: Agreement | None = None
    users: UserShares | None = None


@dataclass(frozen=True)
class Played:
    """What is kept of a partition to compare it with others. Utterances and labels: of each game."""

    by_context: Mapping[
        Context, Sequence[float]
    ]  # respect_core.measuring.metrics.COLUMNS, mean over the games of the context
    utterances: Sequence[Sequence[str]]
    labels: Mapping[str, Sequence[Sequence[int]]]  # by decoder
    annotated: Sequence[AnnotatedTurn]
    turns: int
    users: frozenset[str]
    starts: Sequence[str]  # ISO 8601
    decoders: frozenset[str]


@dataclass(frozen=True)
class Rows:
    """The rows of a partition: turns in order, outcomes by interaction id, feedback, annotations by annotator."""

    turns: Sequence[TurnRow]
    outcomes: Mapping[str, OutcomeRow]
    feedback: Sequence[LabelRow]
    annotations: Sequence[Mapping[str, Any]]

    def utterances(self) -> dict[str, list[str]]:
        """By game."""
        said: dict[str, list[str]] = defaultdict(list)
        for row in self.turns:
            said[row.interaction_id].append(row.utterance)
        return said

    def counts(self) -> Counts:
        return counts((row._asdict() for row in self.turns), (row._asdict() for row in self.outcomes.values()))

    def played(self) -> Played:
        """What is kept when the rows are let go."""
        contexts = {row.interaction_id: tuple(sorted(row.context)) for row in self.turns}
        counted = sorted(key for key, row in self.outcomes.items() if row.success is not None)
        by_context: dict[Context, list[list[int]]] = defaultdict(list)
        for key, columns in zip(counted, self.counts().tolist(), strict=True):
            if key in contexts:
                by_context[contexts[key], tuple(sorted(self.outcomes[key].targets or ()))].append(columns)
        labels: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for row in self.feedback:
            labels[row.decoder][row.interaction_id].append(row.label)
        return Played(
            by_context={context: np.mean(games, axis=0).tolist() for context, games in by_context.items()},
            utterances=list(self.utterances().values()),
            labels={decoder: list(games.values()) for decoder, games in labels.items()},
            annotated=_annotated(self),
            turns=len(self.turns),
            users=frozenset(row.user for row in self.turns),
            starts=[row.started_at for row in self.outcomes.values()],
            decoders=frozenset(f"{row.decoder_model} ({row.decoder_revision[:12]})" for row in self.feedback),
        )


def read_rows(store: Store, partition: Partition) -> Rows:
    """A partition of all tables. Raises TableError and StoreError as reading tables does."""
    where, known = ([partition.round], [partition.variant]), _Known()
    annotated = read_manifest(store, "annotations", *partition) is not None
    annotations = read_table(store, "annotations", *where).to_pylist() if annotated else []
    return Rows(
        sorted(known.rows(TurnRow, iter_batches(store, "turns", *where, TurnRow._fields))),
        {
            row.interaction_id: row
            for row in known.rows(OutcomeRow, iter_batches(store, "outcomes", *where, OutcomeRow._fields))
        },
        list(known.rows(LabelRow, iter_batches(store, "feedback", *where, LabelRow._fields))),
        sorted(annotations, key=lambda row: (row["interaction_id"], row["turn"], row["annotator"])),
    )


class _Known:
    """Values of rows, each in memory once however many rows have it."""

    def __init__(self) -> None:
        self._values: dict[Any, Any] = {}

    def rows(self, kind: type[Row], batches: Iterable[RecordBatch]) -> Iterator[Row]:
        for batch in batches:
            columns = (map(self._same, batch.column(name).to_pylist()) for name in kind._fields)
            yield from map(kind._make, zip(*columns, strict=True))

    def _same(self, value: Any) -> Any:
        """The value that is known, lists as tuples; numbers as they are."""
        if isinstance(value, list):
            value = tuple(map(self._same, value))
        return self._values.setdefault(value, value) if isinstance(value, str | tuple) else value


def cell(rows: Rows, f: ImageSimilarity | None = None) -> Cell:
    """All figures of a partition.

    Args:
        f: similarity of images for equation 3; without it there are no similarities.
    """
    games, said, judged = rows.counts(), list(rows.utterances().values()), _annotated(rows)
    return Cell(
        figures=figures([games]) if len(games) else None,
        language=language(said) if said else None,
        decoded=_decoded(rows, judged),
        turn_figures=turn_figures(judged, f) if judged else None,
        agreement=agreement(judged) if judged else None,
        users=user_shares(Counter(row.user for row in rows.turns)) if rows.turns else None,
    )


def _annotated(rows: Rows) -> list[AnnotatedTurn]:
    """Annotations with the turns they are about, in the order of annotators; those of unknown turns are left out."""
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


def _decoded(rows: Rows, judged: Sequence[AnnotatedTurn]) -> dict[str, Decoded]:
    """By decoder; turns without a label are in the counts only."""
    satisfied = {
        (turn.interaction_id, turn.turn): SATISFIED[turn.satisfaction]
        for turn in ground_truth(judged)
        if turn.satisfaction is not None
    }
    actual = satisfied or _target_labels(rows)
    by_decoder: dict[str, list[LabelRow]] = defaultdict(list)
    for row in rows.feedback:
        by_decoder[row.decoder].append(row)
    found = {}
    for decoder, said in sorted(by_decoder.items()):
        labels = [row.label for row in said]
        known = [row for row in said if (row.interaction_id, row.turn) in actual]
        right = [actual[row.interaction_id, row.turn] for row in known]
        games = [row.interaction_id for row in known]
        found[decoder] = Decoded(
            negative=labels.count(-1),
            neutral=labels.count(0),
            positive=labels.count(1),
            against=("annotations" if satisfied else "targets") if known else None,
            confusion=confusion(right, [row.label for row in known], decoder, games) if known else None,
            calibration=_calibration(known, right),
        )
    return found


def _calibration(known: Sequence[LabelRow], right: Sequence[int]) -> Calibration | None:
    """None without scores: the released data has labels only, and not a number for each score."""
    scored = [not isnan(row.score) for row in known]
    if not any(scored):
        return None
    rows = list(compress(known, scored))
    return calibration([row.score for row in rows], list(compress(right, scored)), [row.interaction_id for row in rows])


def _target_labels(rows: Rows) -> dict[TurnKey, int]:
    labels = {}
    for row in rows.turns:
        outcome = rows.outcomes.get(row.interaction_id)
        if outcome is not None and outcome.targets is not None:
            label = judge(row.scenario).label(row.action, row.context, outcome.targets)
            labels[row.interaction_id, row.turn] = label
    return labels
