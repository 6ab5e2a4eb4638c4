"""Read and measure one policy's games of one round: one partition of the tables.

FOR MEASURING ONLY: this reads outcomes and labels derived from targets.

Games pass one by one, in order of id, and leave counts behind: some 50 bytes a game, and 23 bytes for a decoder's label
of a turn.

Deviations from the paper, numbered as they are cited elsewhere:
1. If no turn was annotated, the decoder is measured against users' own thumbs or, without any, labels derived from
   the targets (`measuring.labels`). The paper's figure 6 is against annotators' judgements of the speaker's
   satisfaction, which is another question: `Decoded.against` tells them apart.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from respect_core.feedback.reviews import REVIEW
from respect_core.measuring.comparison import Contexts, by_context, context_batch, context_key, hash_of
from respect_core.measuring.decoder_metrics import (
    Calibration,
    Confusion,
    LabelFigures,
    by_label,
    calibration,
    confusion,
)
from respect_core.measuring.drift import LABELS, Corpus, LabelCounts
from respect_core.measuring.follow_ups import FollowUps, follow_ups
from respect_core.measuring.judge import ImageSimilarity, Words, judge, words
from respect_core.measuring.language import Language, LanguageTally
from respect_core.measuring.metrics import COLUMNS, Figures, figures
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
from respect_core.stats import Estimate, Floats
from respect_core.store.base import Store
from respect_core.store.by_game import ROW, Rows, games
from respect_core.store.manifests import Partition, read_manifest
from respect_core.store.tables import read_table
from respect_core.variants import DecoderKind

_TURN = ["turn", "scenario", "user", "context", "state", "utterance", "action", "policy_name", "policy_version"]
_READ = {
    "turns": [*_TURN, "explicit"],
    "outcomes": ["targets", "success", "turns", "started_at"],
    "feedback": ["turn", "decoder", "label", "score", "decoder_model", "decoder_revision"],
}
_UNKNOWN = 2  # in the place of a label
_BATCH = 4096  # games

Row = Mapping[str, Any]
Against = Literal["annotations", "thumbs", "targets"]


@dataclass(frozen=True)
class Decoded:
    """One decoder's labels of a policy's turns, and how they compare with actual labels (see deviation 1)."""

    negative: int
    neutral: int
    positive: int
    against: Against | None = None  # None: there are no actual labels
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
    """Totals of a partition, to compare it with others."""

    games: int
    turns: int
    contexts: Contexts  # empty unless they were asked for
    corpus: Corpus | None  # None unless it was asked for
    labels: Mapping[str, LabelCounts]  # by decoder, of each game or, in conversations, of each user
    annotated: Sequence[AnnotatedTurn]
    users: NDArray[np.uint64]  # hashes
    first: str | None  # ISO 8601 starts of the first and the last game
    last: str | None
    scenarios: Mapping[str, int]  # turns by scenario
    decoders: frozenset[str]


def measure_partition(
    store: Store,
    partition: Partition,
    f: ImageSimilarity | None = None,
    *,
    contexts: bool = True,
    corpus: bool = True,
) -> tuple[PolicyRound, GameTotals]:
    """Compute all figures of a partition, and the totals that remain of it.

    Args:
        f: similarity of images for equation 3; without it there are no similarities.
        contexts, corpus: whether the totals have these.

    Raises:
        TableError, StoreError: as reading tables does.
    """
    tally = _Tally(LanguageTally(), Corpus() if corpus else None)
    found = by_context(tally.add_all(store, partition, contexts), store.scratch)
    return tally.cell(f), tally.totals(found)


def compare_decoders(store: Store, partition: Partition) -> dict[str, Decoded]:
    """Compare each decoder with actual labels; turns without an actual label are only counted."""
    tally = _Tally(None, None)
    for _ in tally.add_all(store, partition, contexts=False):
        pass
    return tally.decoded()


class _Decoder:
    """A decoder's labels as columns, in order of game."""

    def __init__(self) -> None:
        self._columns: dict[str, array[Any]] = {
            **{name: array("I") for name in (ROW, "game")},
            **{name: array("i") for name in ("user", "version")},  # their numbers, as in _Tally
            **{name: array("b") for name in ("label", "annotations", "thumbs", "targets")},
            "score": array("f"),
        }

    def add(self, **values: float) -> None:
        for name, column in self._columns.items():
            column.append(values[name])

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns in the order of the table, which sums of scores depend on."""
        order = np.argsort(np.frombuffer(self._columns[ROW], np.uint32))
        return {name: np.frombuffer(each, each.typecode)[order] for name, each in self._columns.items()}


class _Tally:
    """Running counts of a partition's games, which come in order of id."""

    def __init__(self, language: LanguageTally | None, corpus: Corpus | None) -> None:
        self._language, self._corpus = language, corpus
        self._games = 0  # in any table
        self._played = 0  # with turns
        self._counts = array("q")  # COLUMNS of games that have an outcome
        self._decoders: dict[str, _Decoder] = defaultdict(_Decoder)
        self._names = set[tuple[str, str]]()  # of decoders: model and revision
        self._turns, self._scenarios = Counter[str](), Counter[str]()  # by user, by scenario
        self._users, self._versions = dict[str, int](), dict[str, int]()  # numbers, in order of appearance
        self._annotated = list[AnnotatedTurn]()
        self._against = set[str]()  # what decoded labels can be compared with
        self._words = Words()
        self._first: str | None = None
        self._last: str | None = None

    def add_all(self, store: Store, partition: Partition, contexts: bool) -> Iterator[pa.RecordBatch]:
        """Count the games of a partition; yield the context and COLUMNS of those to compare, if asked to."""
        answers, waiting = _answers(store, partition), list[tuple[str | int, ...]]()
        for game, rows in games(store, partition, _READ):
            counts = self._add(game, rows, answers.get(game, ()))
            if contexts and counts is not None and rows["turns"]:
                targets = rows["outcomes"][0]["targets"] or ()
                if (context := context_key(rows["turns"][-1]["context"], targets)) is not None:
                    waiting.append((context, *counts))
            if len(waiting) >= _BATCH:
                yield context_batch(waiting)
                waiting = []
        yield context_batch(waiting)

    def _add(self, game: str, rows: Rows, answers: Sequence[Row]) -> Sequence[int] | None:
        """Count a game; return its COLUMNS, None if it has no outcome."""
        turns, outcome = rows["turns"], next(iter(rows["outcomes"]), None)
        if turns and not self._played:
            self._words = words(turns[0]["scenario"])
        if turns:
            self._played += 1
            self._turns[turns[0]["user"]] += len(turns)
            self._scenarios.update(row["scenario"] for row in turns)
            for part in (self._language, self._corpus):
                if part is not None:
                    part.add([row["utterance"] for row in turns])
        annotated = _annotated(game, turns, answers)
        self._annotated += annotated
        self._add_labels(game, rows, _actual(turns, outcome, annotated))
        self._games += 1
        if outcome is None:
            return None
        start = outcome["started_at"]
        self._first = start if self._first is None else min(self._first, start)
        self._last = start if self._last is None else max(self._last, start)
        if outcome["success"] is None:
            return None
        counts = [int(outcome["success"]), outcome["turns"], 0, 0]
        for row in turns:
            right, clicks = judge(row["scenario"]).credit(row["action"], row["context"], outcome["targets"])
            counts[2] += right
            counts[3] += clicks
        self._counts.extend(counts)
        return counts

    def _add_labels(self, game: str, rows: Rows, actual: Mapping[str, Mapping[int, int]]) -> None:
        self._against.update(name for name, labels in actual.items() if labels)
        last = rows["turns"][-1] if rows["turns"] else None
        user = self._users.setdefault(last["user"] if last else game, len(self._users))
        version = self._versions.setdefault(_version(last), len(self._versions)) if last else -1
        for row in rows["feedback"]:
            self._names.add((row["decoder_model"], row["decoder_revision"][:12]))
            self._decoders[row["decoder"]].add(
                row=row[ROW],
                game=self._games,
                user=user,
                version=version,
                label=row["label"],
                score=row["score"],
                **{name: labels.get(row["turn"], _UNKNOWN) for name, labels in actual.items()},
            )

    def cell(self, f: ImageSimilarity | None) -> PolicyRound:
        """Compute all figures."""
        counts, annotated = np.frombuffer(self._counts, np.int64).reshape(-1, len(COLUMNS)), self._annotated
        return PolicyRound(
            figures=figures([counts]) if len(counts) else None,
            language=self._language.language() if self._language and self._played else None,
            decoded=self.decoded(),
            turn_figures=turn_figures(annotated, f) if any(turn.right is not None for turn in annotated) else None,
            agreement=agreement(annotated) if annotated else None,
            users=user_shares(self._turns) if self._turns else None,
            **self._follow_ups(),
        )

    def totals(self, contexts: Contexts) -> GameTotals:
        """Return what remains of the partition."""
        return GameTotals(
            games=self._played,
            turns=self._turns.total(),
            contexts=contexts,
            corpus=self._corpus,
            labels={name: self._label_counts(each.columns()) for name, each in self._decoders.items()},
            annotated=self._annotated,
            users=np.array([hash_of(user) for user in self._turns], np.uint64),
            first=self._first,
            last=self._last,
            scenarios=self._scenarios,
            decoders=frozenset(f"{model} ({revision})" for model, revision in self._names),
        )

    def _label_counts(self, columns: Mapping[str, NDArray[Any]]) -> LabelCounts:
        """Count labels by what is resampled of them: the game as in the paper, its user in conversations."""
        units = columns["game" if self._words.paper else "user"]
        _, first_N, place_T = np.unique(units, return_index=True, return_inverse=True)
        counts = [np.bincount(place_T, columns["label"] == label, len(first_N)) for label in LABELS]
        return np.stack(counts, axis=1)[np.argsort(first_N)].astype(np.int32)

    def decoded(self) -> dict[str, Decoded]:
        """Compare each decoder with actual labels."""
        ranked: tuple[Against, ...] = ("annotations", "thumbs")
        against: Against = next((name for name in ranked if name in self._against), "targets")
        comparisons = {}
        for decoder, each in sorted(self._decoders.items()):
            columns = each.columns()
            known_T = columns[against] != _UNKNOWN
            label_T, game_T, actual_T = (columns[name][known_T] for name in ("label", "game", against))
            compared = len(actual_T) > 0
            comparisons[decoder] = Decoded(
                **{name: int((columns["label"] == label).sum()) for name, label in _NAMES.items()},
                against=against if compared else None,
                confusion=confusion(actual_T, label_T, decoder, game_T) if compared else None,
                calibration=_calibration(columns["score"][known_T].astype(float), actual_T, game_T),
                by_label=by_label(actual_T, label_T, game_T) if compared and not self._words.paper else {},
            )
        return comparisons

    def _follow_ups(self) -> dict[str, Any]:
        """Measure decoded follow-ups, of all and by version, by the ternary decoder if there is one.

        Not for the paper's scenario, whose reports have figure 6 in their place.
        """
        if self._words.paper or not self._decoders:
            return {}
        decoder = (DecoderKind.TERNARY if DecoderKind.TERNARY in self._decoders else DecoderKind.BINARY).value
        columns = self._decoders[decoder].columns()
        rank_U = np.empty(len(self._users), np.int64)
        rank_U[[self._users[name] for name in sorted(self._users)]] = np.arange(len(self._users))

        def measured(chosen_T: NDArray[np.bool_]) -> FollowUps | None:
            users_T = rank_U[columns["user"][chosen_T]]
            return follow_ups(users_T, columns["label"][chosen_T], has_neutral=decoder == DecoderKind.TERNARY)

        versions = {name: measured(columns["version"] == at) for name, at in sorted(self._versions.items())}
        return {
            "follow_ups": measured(columns["version"] >= 0),
            "by_version": {name: each for name, each in versions.items() if each},
        }


_NAMES = {"negative": -1, "neutral": 0, "positive": 1}


def _answers(store: Store, partition: Partition) -> dict[str, list[Row]]:
    """Read annotations by game, in order of turn and annotator."""
    if read_manifest(store, "annotations", *partition) is None:
        return {}
    rows = read_table(store, "annotations", [partition.round], [partition.variant]).to_pylist()
    plain = [row for row in rows if row["source"] != REVIEW]  # reviewed turns are not drawn plainly at random
    plain.sort(key=itemgetter("interaction_id", "turn", "annotator"))
    return {game: list(found) for game, found in groupby(plain, itemgetter("interaction_id"))}


def _annotated(game: str, turns: Sequence[Row], answers: Sequence[Row]) -> list[AnnotatedTurn]:
    """Return annotations with their turns, in order of turn and annotator; those of unknown turns are left out."""
    by_number = {row["turn"]: row for row in turns} if answers else {}
    return [
        AnnotatedTurn(
            game,
            row["turn"],
            turn["scenario"],
            tuple(turn["context"]),
            turn["state"],
            turn["action"],
            row["intended"],
            row["satisfaction"],
            row["annotator"],
            row["correct"],
        )
        for row in answers
        if (turn := by_number.get(row["turn"])) is not None
    ]


def _actual(turns: Sequence[Row], outcome: Row | None, annotated: Sequence[AnnotatedTurn]) -> dict[str, dict[int, int]]:
    """Return the actual labels of a game's turns, by where they come from."""
    targets = outcome["targets"] if outcome else None
    return {
        "annotations": {
            each.turn: SATISFACTION_LABELS[each.satisfaction]
            for each in first_annotations(annotated)
            if each.satisfaction is not None
        },
        "thumbs": {row["turn"]: row["explicit"] for row in turns if row["explicit"] is not None},
        "targets": {
            row["turn"]: judge(row["scenario"]).label(row["action"], row["context"], targets)
            for row in turns
            if targets is not None
        },
    }


def _calibration(score_T: Floats, actual_T: NDArray[np.int8], game_T: NDArray[Any]) -> Calibration | None:
    """Compute the calibration, or None without scores: the released data has NaN in their place."""
    has_score = ~np.isnan(score_T)
    return calibration(score_T[has_score], actual_T[has_score], game_T[has_score]) if has_score.any() else None


def _version(row: Row) -> str:
    unknown = row["policy_version"] == "unknown"
    return str(row["policy_name"]) if unknown else f"{row['policy_name']}/{row['policy_version']}"
