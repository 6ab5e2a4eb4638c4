"""Make the training set of a variant from decoded turns: eligibility, and rehearsal of D0 (section 5, appendix B.2).

Deviation from the paper: an action that no policy can sample, such as a turn of MULTIREF without a click, is context
only (`Scenario.context_only`).

Turns and feedback are sorted together, by game and turn, so that a game's rows become adjacent wherever they are in
their tables. Memory does not grow with them (`respect_core.store.sorting`), except for a few bytes per game in `Tally`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from respect_core.interaction import TurnKey
from respect_core.scenario import Scenario
from respect_core.schemas import FEEDBACK_SCHEMA, TRAINING_SET_SCHEMA, TURNS_SCHEMA
from respect_core.store.sorting import RUN, sorted_groups
from respect_core.training_data.limits import WHO, limited
from respect_core.training_data.rehearsal import FROM_TURNS, rehearsal
from respect_core.training_data.sampling import (
    NAMED,
    count_epoch,
    refuse_without_probability,
    require_schema,
    turn_name,
)
from respect_core.variants import NO_LIMITS, FeedbackSource, Objective, TrainingConfig, UserLimits, Variant

# A row of either table: `label`, `marked` and `reviewed` are null in rows of turns, the columns that only turns have
# in rows of feedback.
_ROW_SCHEMA = pa.schema(
    [
        *(pa.field(name, TURNS_SCHEMA.field(name).type) for name in FROM_TURNS),
        pa.field("has_follow_up", pa.bool_()),
        TURNS_SCHEMA.field("explicit"),
        pa.field("marked", pa.bool_()),
        pa.field("reviewed", pa.int8()),  # what people say the follow-up means
        pa.field("label", pa.int8()),
    ]
)
_WITH_USERS = pa.schema([*_ROW_SCHEMA, *WHO])


# --- rows -------------------------------------------------------------------------------------------------------


def training_batches(
    turns: Iterable[pa.RecordBatch],
    feedback: Iterable[pa.RecordBatch],
    d0: pa.Table,
    variant: Variant | None,
    scenario: Scenario,
    *,
    source: FeedbackSource = FeedbackSource.DECODED,
    people: Mapping[TurnKey, int] = {},
    deselection_ratio: float = 1 / 12,
    d0_right: frozenset[TurnKey] | None = None,
    seed: int = 0,
    shuffle_seed: int = 0,
    limits: UserLimits = NO_LIMITS,
    excluded: Collection[str] = (),
    left_out: Counter[str] | None = None,
    scratch: Path | None = None,
    run: int = RUN,
) -> Iterator[pa.RecordBatch]:
    """Yield the training set of a variant: games with an eligible turn, then D0 with its augmentation.

    FFT takes positive turns; RL and KTO take positive and negative ones. Never eligible: neutral turns, turns with
    neither follow-up (footnote 3) nor thumb, turns that the decoder marked (`respect_core.utterances`), and actions
    that are context only. Feedback of the other decoder is ignored.

    Args:
        turns: all rounds so far of this variant's deployments, with the round it started from (section 4).
        feedback: feedback decoded from them.
        d0: the turns of D0, rehearsed in every round; empty to leave it out. It is held in memory.
        variant: None for the seed policy, which learns from D0 alone.
        source: what counts as a turn's feedback.
        people: labels of reviewed follow-ups (`feedback.reviews`), which stand in the place of decoded ones.
        deselection_ratio, d0_right, seed: see `rehearsal`.
        shuffle_seed: see `_shuffled`.
        limits, excluded, left_out: see `limited`.
        scratch, run: see `sorted_groups`.

    Returns:
        Batches of whole games in TRAINING_SET_SCHEMA, in order of interaction and turn; the same inputs give the same
        rows. `label` is null where a turn is context only.

    Raises:
        ValueError: a table of another schema (so neither targets nor outcomes can come in), two labels for one turn,
            turns not numbered 0, 1, 2, ..., or a game in both `turns` and `d0`. Some of these only at the end.
    """
    require_schema(d0, TURNS_SCHEMA, "D0")
    rehearsed = rehearsal(d0.to_pylist(), scenario, deselection_ratio=deselection_ratio, right=d0_right, seed=seed)
    d0_ids, both = pa.array({row["interaction_id"] for row in rehearsed}, pa.string()), set[str]()
    if variant is not None:
        limit = limits.any or bool(excluded)
        rows = _rows(turns, feedback, variant, people, _WITH_USERS if limit else _ROW_SCHEMA)
        groups = sorted_groups(rows, ["interaction_id", "turn", "label"], scratch, run)
        labelled: Iterator[pa.Table] = (_label_turns(group, variant, scenario, source) for group in groups)
        labelled = _shuffled(labelled, shuffle_seed) if variant.shuffled else labelled
        eligible: Iterator[pa.Table] = (_eligible_games(group, variant.objective) for group in labelled)
        if limit:
            eligible = limited(eligible, limits, excluded, Counter() if left_out is None else left_out, scratch)
        for group in eligible:
            games = _training_rows(group)
            _require_numbers(games)
            both |= set(games["interaction_id"].filter(pc.is_in(games["interaction_id"], d0_ids)).to_pylist())
            yield from games.combine_chunks().to_batches()
    if both:
        raise ValueError(f"{len(both)} games are in the turns table and in D0, e.g. {min(both)}; keep each in one")
    yield from pa.Table.from_pylist(rehearsed, schema=TRAINING_SET_SCHEMA).to_batches()


def _rows(
    turns: Iterable[pa.RecordBatch],
    feedback: Iterable[pa.RecordBatch],
    variant: Variant,
    people: Mapping[TurnKey, int],
    schema: pa.Schema,
) -> Iterator[pa.RecordBatch]:
    """Yield both tables in a schema of rows; of feedback, the rows of the variant's decoder."""
    own = [name for name in schema.names if name in TURNS_SCHEMA.names]
    for batch in turns:
        require_schema(batch, TURNS_SCHEMA, "turns")
        columns = {name: batch.column(name) for name in own}
        columns |= {"has_follow_up": pc.is_valid(batch.column("follow_up"))}
        yield _row_batch(columns, batch.num_rows, schema)
    for batch in feedback:
        require_schema(batch, FEEDBACK_SCHEMA, "feedback")
        mine = batch.filter(pc.equal(batch.column("decoder"), str(variant.decoder)))
        columns = {name: mine.column(name) for name in ("interaction_id", "turn", "label")}
        columns |= {"marked": pc.is_valid(mine.column("marked")), "reviewed": labels_of(mine, people)}
        yield _row_batch(columns, mine.num_rows, schema)


def labels_of(batch: pa.RecordBatch, people: Mapping[TurnKey, int]) -> pa.Array:
    """Return the label that people gave each row's turn, null where they gave none."""
    names = pa.array({name for name, _ in people}, pa.string())
    if not pc.any(pc.is_in(batch.column("interaction_id"), names)).as_py():  # as in nearly every batch
        return pa.nulls(batch.num_rows, pa.int8())
    keys = zip(*(batch.column(name).to_pylist() for name in ("interaction_id", "turn")), strict=True)
    return pa.array([people.get(key) for key in keys], pa.int8())


def _row_batch(columns: Mapping[str, pa.Array], rows: int, schema: pa.Schema) -> pa.RecordBatch:
    arrays = [columns[each.name] if each.name in columns else pa.nulls(rows, each.type) for each in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _label_turns(group: pa.Table, variant: Variant, scenario: Scenario, source: FeedbackSource) -> pa.Table:
    """Return the rows of turns, each with its feedback unless it is context only.

    Decoded feedback comes right before its turn: rows are sorted by turn and label, and nulls sort last.
    """
    same_turn = _same_as_before(group)
    label = group["label"].combine_chunks()
    label_before = _shifted(label)
    conflict = pc.and_(same_turn, pc.not_equal(label, label_before))
    if pc.any(conflict).as_py():
        first = group.filter(conflict).slice(0, 1).to_pylist()[0]
        raise ValueError(
            f"feedback has two {variant.decoder} labels for turn {first['turn']} of {first['interaction_id']}"
        )
    nothing = pa.scalar(None, pa.int8())
    reviewed = _shifted(group["reviewed"].combine_chunks())
    has_feedback = pc.and_(same_turn, group["has_follow_up"])
    decoded = pc.if_else(has_feedback, pc.coalesce(reviewed, label_before), nothing)
    chosen = {
        FeedbackSource.DECODED: decoded,
        FeedbackSource.EXPLICIT: group["explicit"],
        FeedbackSource.BOTH: pc.coalesce(pc.if_else(has_feedback, reviewed, nothing), group["explicit"], decoded),
    }[source]
    marked = pc.and_(same_turn, _shifted(group["marked"].combine_chunks()).fill_null(False))
    context_only = pc.is_in(group["action"], pa.array(sorted(scenario.context_only), pa.string()))
    place = group.schema.get_field_index("label")
    rows = group.set_column(place, "label", pc.if_else(pc.or_(marked, context_only), nothing, chosen))
    return rows.filter(pc.is_valid(group["action"]))


def _shuffled(groups: Iterable[pa.Table], seed: int) -> Iterator[pa.Table]:
    """Permute labels among the turns that have one, neutral ones too: at once among RUN rows or more, if there are."""
    random, waiting = np.random.default_rng([seed]), list[pa.Table]()

    def permuted() -> pa.Table:
        table = pa.concat_tables(waiting).combine_chunks()
        label = table["label"].combine_chunks()
        labels = label.drop_null().to_numpy(zero_copy_only=False)
        label = pc.replace_with_mask(label, pc.is_valid(label), pa.array(random.permutation(labels), pa.int8()))
        return table.set_column(table.schema.get_field_index("label"), "label", label)

    for group in groups:
        waiting.append(group)
        if sum(each.num_rows for each in waiting) >= RUN:
            yield permuted()
            waiting = []
    if waiting:
        yield permuted()


def _shifted(column: pa.Array) -> pa.Array:
    """Return for each row the value of the row before it, null for the first."""
    return pa.concat_arrays([pa.nulls(min(1, len(column)), column.type), column[:-1]])


def _same_as_before(group: pa.Table) -> pa.Array:
    """Return whether each row is of the same turn as the row before it."""
    return pc.and_(_repeats(group["interaction_id"]), _repeats(group["turn"]))


def _repeats(column: pa.ChunkedArray) -> pa.Array:
    """Return whether each value repeats the one before it."""
    repeats = pc.equal(column.slice(1), column.slice(0, max(0, len(column) - 1)))
    return pa.concat_arrays([pa.array([False] * min(1, len(column)), pa.bool_()), *repeats.chunks])


def _eligible_games(turns: pa.Table, objective: Objective) -> pa.Table:
    """Return the turns of games with a label that the objective learns from; other labels become null."""
    wanted = pc.is_in(turns["label"], pa.array([1] if objective is Objective.FFT else [1, -1], pa.int8()))
    label = pc.if_else(wanted, turns["label"], pa.scalar(None, pa.int8()))
    turns = turns.set_column(turns.schema.get_field_index("label"), "label", label)
    games = turns["interaction_id"].filter(pc.is_valid(turns["label"])).unique()
    return turns.filter(pc.is_in(turns["interaction_id"], games))


def _training_rows(rows: pa.Table) -> pa.Table:
    source = pa.repeat("round", len(rows))
    return rows.append_column("source", source).select(TRAINING_SET_SCHEMA.names).cast(TRAINING_SET_SCHEMA)


def _require_numbers(games: pa.Table) -> None:
    """Raise ValueError unless the turns of each game are numbered 0, 1, 2, ..."""
    starts_N = ~_repeats(games["interaction_id"]).to_numpy(zero_copy_only=False)
    first_N = np.flatnonzero(starts_N)[np.cumsum(starts_N) - 1]
    wrong_N = games["turn"].to_numpy() != np.arange(len(games)) - first_N
    if wrong_N.any():
        name = games["interaction_id"][int(wrong_N.argmax())].as_py()
        numbers = games.filter(pc.equal(games["interaction_id"], name))["turn"].to_pylist()
        raise ValueError(f"interaction {name}: turns are numbered {numbers}; expected 0, 1, 2, ...")


# --- propensity -------------------------------------------------------------------------------------------------


def fill_propensity(
    batch: pa.RecordBatch, values_by_turn: Mapping[TurnKey, float], *, free_text: bool = False
) -> pa.RecordBatch:
    """Fill in p where it is null, as a probability or, of free text, as its logarithm. Logged values stay.

    Raises:
        ValueError: a probability outside (0, 1], or a logarithm above 0.
    """
    name, low, high = ("logp", -math.inf, 0.0) if free_text else ("probability", 0.0, 1.0)
    columns = (batch.column(each).to_pylist() for each in ("interaction_id", "turn", name))
    values = [
        logged if logged is not None else values_by_turn.get((interaction_id, turn))
        for interaction_id, turn, logged in zip(*columns, strict=True)
    ]
    wrong = next((place for place, p in enumerate(values) if p is not None and not low < p <= high), None)
    if wrong is not None:
        interaction_id, turn = (batch.column(each)[wrong] for each in ("interaction_id", "turn"))
        raise ValueError(f"{name} {values[wrong]} of turn {turn} of {interaction_id} is outside ({low:g}, {high:g}]")
    place = batch.schema.get_field_index(name)
    return batch.set_column(place, batch.schema.field(place), pa.array(values, pa.float64()))


def propensity(batch: pa.RecordBatch) -> pa.Array:
    """Return p or its logarithm, whichever a row has; null where it has neither."""
    return pc.coalesce(batch.column("probability"), batch.column("logp"))


# --- figures ----------------------------------------------------------------------------------------------------


_PER_GAME = ("positives", "negatives", "rehearsed")
_NO_GAMES = pa.schema(
    [pa.field("interaction_id", pa.string()), *(pa.field(f"{name}_sum", pa.uint64()) for name in _PER_GAME)]
).empty_table()


@dataclass
class Tally:
    """Running totals over a training set. Memory: one id plus 24 bytes per game."""

    rows: int = 0
    without_p: int = 0
    labels: Counter[tuple[str, int | None]] = field(default_factory=Counter)  # (source, label) -> rows
    _lacking: int = 0  # negatives without p
    _first_lacking: list[str] = field(default_factory=list)  # names of the first of them
    _games: list[pa.Table] = field(default_factory=list)

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch of whole games in TRAINING_SET_SCHEMA."""
        self.rows += batch.num_rows
        label, p = batch.column("label"), propensity(batch)
        self.without_p += p.null_count
        for row in _grouped(batch.select(["source", "label"]), ["source", "label"], [([], "count_all")]).to_pylist():
            self.labels[row["source"], row["label"]] += row["count_all"]
        positive, negative = (pc.equal(label, value).fill_null(False) for value in (1, -1))
        columns = {
            "interaction_id": batch.column("interaction_id"),
            "positives": positive,
            "negatives": negative,
            "rehearsed": pc.not_equal(batch.column("source"), "round"),
        }
        sums = [(name, "sum") for name in _PER_GAME]
        self._games.append(_grouped(pa.RecordBatch.from_pydict(columns), ["interaction_id"], sums))
        lacking = batch.filter(pc.and_(negative, pc.is_null(p)))
        self._lacking += lacking.num_rows
        room = max(0, NAMED - len(self._first_lacking))
        turns = zip(*(lacking.column(name)[:room].to_pylist() for name in ("interaction_id", "turn")), strict=True)
        self._first_lacking += [turn_name(*turn) for turn in turns]

    def require_probability(self) -> None:
        """Raise ValueError unless every negative turn has its p; see `sampling.require_probability`."""
        refuse_without_probability(self._first_lacking, self._lacking)

    def counts(self, config: TrainingConfig) -> dict[str, int]:
        """Count turns by label, and those that an epoch of training uses."""
        games = pa.concat_tables([_NO_GAMES, *self._games]).sort_by("interaction_id")
        positives_N, negatives_N, rows_N = (games[f"{name}_sum"].to_numpy().astype(np.int64) for name in _PER_GAME)
        turns, negatives = count_epoch(positives_N, negatives_N, rows_N > 0, config, seed=0, epoch=0)
        rehearsed = sum(n for (source, label), n in self.labels.items() if source != "round" and label is not None)
        return {
            "train_turns": turns,
            "positives": self.labels["round", 1],
            "negatives": self.labels["round", -1],
            "negatives_used": negatives,
            "rehearsal_turns": rehearsed,
        }


def warnings(counts: Mapping[str, int], config: TrainingConfig) -> list[str]:
    """Describe oddities of a training set with these counts (`Tally.counts`): no negatives, or few within 5:4.

    Each epoch draws again, so that training for many epochs uses more of them.
    """
    positives, negatives, used = (counts[name] for name in ("positives", "negatives", "negatives_used"))
    learner = config.objective.upper()
    if config.objective is Objective.FFT:
        return []
    if not negatives:
        return [f"no turn was decoded as negative: {learner} learns from {positives:,} positives alone"]
    if used < _FEW * negatives:
        return [
            f"{negatives:,} turns were decoded as negative and {positives:,} as positive: an epoch of {learner} uses "
            f"{used:,} of the negatives, since a batch takes one to {config.positive_to_negative:g} positives"
        ]
    return []


_FEW = 0.1


def _grouped(batch: pa.RecordBatch, by: list[str], aggregates: list[Any]) -> pa.Table:
    return pa.Table.from_batches([batch]).group_by(by, use_threads=False).aggregate(aggregates)
