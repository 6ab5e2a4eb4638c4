"""Make the training set of a variant from decoded turns: eligibility, and rehearsal of D0 (section 5, appendix B.2).

Deviation from the paper: an action that no policy can sample, such as a turn of MULTIREF without a click, is context
only (`Scenario.context_only`).

DuckDB joins turns with feedback and sorts them by game and turn, wherever they are in their tables, through files once
they exceed its memory. Only `Tally` grows, by a few bytes per game.
"""

from __future__ import annotations

import errno
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from respect_core.interaction import TurnKey
from respect_core.scenario import Scenario
from respect_core.schemas import FEEDBACK_SCHEMA, TRAINING_SET_SCHEMA, TURNS_SCHEMA
from respect_core.store.parts import ROW_GROUP
from respect_core.training_data.rehearsal import FROM_TURNS, rehearsal
from respect_core.training_data.sampling import (
    NAMED,
    count_epoch,
    refuse_without_probability,
    require_schema,
    turn_name,
)
from respect_core.variants import Objective, TrainingConfig, Variant

_COLUMNS = ", ".join(FROM_TURNS)
_MEMORY = "128MiB"
"""What DuckDB holds in memory."""

# --- rows -------------------------------------------------------------------------------------------------------


def training_batches(
    turns: Iterable[pa.RecordBatch],
    feedback: Iterable[pa.RecordBatch],
    d0: pa.Table,
    variant: Variant | None,
    scenario: Scenario,
    *,
    deselection_ratio: float = 1 / 12,
    d0_right: frozenset[TurnKey] | None = None,
    seed: int = 0,
    scratch: Path | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield the training set of a variant: games with an eligible turn, then D0 with its augmentation.

    FFT takes positive turns; RL and KTO take positive and negative ones. Never eligible: neutral turns, turns
    without a follow-up (footnote 3), turns that the decoder marked (`respect_core.utterances`), and actions that are
    context only. Feedback of the other decoder is ignored.

    Args:
        turns: all rounds so far of this variant's deployments, with the round it started from (section 4).
        feedback: feedback decoded from them.
        d0: the turns of D0, rehearsed in every round; empty to leave it out. It is held in memory.
        variant: None for the seed policy, which learns from D0 alone.
        deselection_ratio, d0_right, seed: see `rehearsal`.
        scratch: folder for DuckDB's files, the system's by default.

    Returns:
        Batches of whole games in TRAINING_SET_SCHEMA, in order of interaction and turn; the same inputs give the same
        rows. `label` is null where a turn is context only.

    Raises:
        ValueError: a table of another schema (so neither targets nor outcomes can come in), two labels for one turn,
            turns not numbered 0, 1, 2, ..., or a game in both `turns` and `d0`. Some of these only at the end.
        OSError: no room for the files.
    """
    require_schema(d0, TURNS_SCHEMA, "D0")
    rehearsed = rehearsal(d0.to_pylist(), scenario, deselection_ratio=deselection_ratio, right=d0_right, seed=seed)
    d0_ids, both = pa.array({row["interaction_id"] for row in rehearsed}, pa.string()), set[str]()
    if variant is not None:
        for games in _labelled_games(turns, feedback, variant, scenario, scratch):
            _require_numbers(games)
            both |= set(games["interaction_id"].filter(pc.is_in(games["interaction_id"], d0_ids)).to_pylist())
            yield from games.combine_chunks().to_batches()
    if both:
        raise ValueError(f"{len(both)} games are in the turns table and in D0, e.g. {min(both)}; keep each in one")
    yield from pa.Table.from_pylist(rehearsed, schema=TRAINING_SET_SCHEMA).to_batches()


_TURNS = f"""
    SELECT {_COLUMNS}, follow_up IS NOT NULL AND NOT list_contains($context_only, action) AS learnable FROM rows
"""
_FEEDBACK = "SELECT interaction_id, turn, label FROM rows WHERE decoder = $decoder AND marked IS NULL"
_LABELS = """
    CREATE TABLE labels AS
    SELECT interaction_id, turn, min(label) AS label, max(label) AS another FROM feedback GROUP BY ALL
"""
_CONFLICT = "SELECT turn, interaction_id FROM labels WHERE label <> another ORDER BY interaction_id, turn LIMIT 1"
_LABELLED = f"""
    CREATE TABLE labelled AS
    SELECT {_COLUMNS}, CASE WHEN learnable AND list_contains($labels, label) THEN label END AS label, 'round' AS source
    FROM turns LEFT JOIN labels USING (interaction_id, turn)
"""
_SORTED = "FROM labelled ORDER BY interaction_id, turn"


def _labelled_games(
    turns: Iterable[pa.RecordBatch],
    feedback: Iterable[pa.RecordBatch],
    variant: Variant,
    scenario: Scenario,
    scratch: Path | None,
) -> Iterator[pa.Table]:
    """Yield the games with an eligible turn, in TRAINING_SET_SCHEMA and in order; eligible turns have their label."""
    with _database(scratch) as database:
        _insert(database, "turns", turns, TURNS_SCHEMA, _TURNS, {"context_only": sorted(scenario.context_only)})
        _insert(database, "feedback", feedback, FEEDBACK_SCHEMA, _FEEDBACK, {"decoder": str(variant.decoder)})
        database.execute(_LABELS)
        if conflict := database.execute(_CONFLICT).fetchone():
            raise ValueError("feedback has two {} labels for turn {} of {}".format(variant.decoder, *conflict))
        labels = [1] if variant.objective is Objective.FFT else [1, -1]
        database.execute(_LABELLED, {"labels": labels})
        rest = TRAINING_SET_SCHEMA.empty_table()  # the rows of a game whose end is not read yet
        for batch in database.execute(_SORTED).to_arrow_reader(ROW_GROUP):
            rows = pa.concat_tables([rest, pa.Table.from_batches([batch]).cast(TRAINING_SET_SCHEMA)])
            last = pc.index(rows["interaction_id"], rows["interaction_id"][-1]).as_py()
            rest = rows.slice(last)
            yield _eligible(rows.slice(0, last))
        yield _eligible(rest)


def _eligible(games: pa.Table) -> pa.Table:
    """Return the games with a label."""
    labelled = games["interaction_id"].filter(pc.is_valid(games["label"]))
    return games.filter(pc.is_in(games["interaction_id"], labelled.unique()))


@contextmanager
def _database(scratch: Path | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database for this process alone, whose files are gone at the end."""
    with tempfile.TemporaryDirectory(dir=scratch, prefix="respect-") as folder:
        try:
            with duckdb.connect(config={"memory_limit": _MEMORY, "threads": 1, "temp_directory": folder}) as database:
                yield database
        except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
            raise OSError(errno.ENOSPC, str(error), folder) from error


def _insert(
    database: duckdb.DuckDBPyConnection,
    name: str,
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    query: str,
    parameters: Mapping[str, Any],
) -> None:
    """Make a table of what a query selects from each batch, its `rows`."""
    database.register("rows", schema.empty_table())
    database.execute(f"CREATE TABLE {name} AS {query}", parameters)
    for batch in batches:
        require_schema(batch, schema, name)
        database.register("rows", batch)
        database.execute(f"INSERT INTO {name} {query}", parameters)


def _require_numbers(games: pa.Table) -> None:
    """Raise ValueError unless the turns of each game are numbered 0, 1, 2, ..."""
    ids = games["interaction_id"].combine_chunks()
    starts_N = np.append(True, pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False))[: len(ids)]
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
