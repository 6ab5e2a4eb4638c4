"""Store annotators' answers, and build the table of annotations from them (appendix A.2): FOR MEASURING ONLY.

Annotators see a game turn by turn, without its targets (`annotation_tasks`). For each turn they first say which action
they would have taken (the intended action a*); then they see the action that was taken and the follow-up, and say
whether the speaker was satisfied with it. One row of the `annotations` table is one annotator's answer to one turn.

Answers are stored in immutable objects of JSON lines, named by their contents:
``answers/round=5/variant=b-fft/<hash>.jsonl``. The table is built from them, and can be rebuilt at any time: an answer
is safe once its object is stored, whatever happens next. If an annotator answers a turn more than once, the first
answer counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from respect_core.feedback.reviews import REVIEW
from respect_core.log.log import SET_ASIDE, RecordError, from_validation, new_lines
from respect_core.measuring.annotation_tasks import AnsweredTurn
from respect_core.measuring.judge import judge
from respect_core.measuring.turn_metrics import LABELS, NEUTRAL, AnnotatedTurn
from respect_core.scenario import ScenarioError, scenario
from respect_core.schemas import ANNOTATIONS_SCHEMA as ANNOTATIONS_SCHEMA
from respect_core.store.base import Store
from respect_core.store.manifests import ChangedError, Input, Partition, missing_parts, partitions_with, read_manifest
from respect_core.store.tables import read_table, write_partition

ANNOTATIONS, ANSWERS = "annotations", "answers"
Satisfaction = Literal["yes", "partial", "incorrect", "no"]
"""Satisfied; satisfied, though the selection was incomplete; satisfied, though it was wrong; not satisfied
(appendix A.2)."""
Audited = Literal["yes", "neutral", "no"]
"""The same of free text, where nothing is selected; neutral: the follow-up does not tell."""
Source = Literal["page", "file", "released", "review"]
"""Answers of the review queue are also learned from (`feedback.reviews`), and count in no evaluation of games."""

_Turns = Mapping[tuple[str, int], Mapping[str, Any]]
_Row = dict[str, Any]


class AnswerError(RecordError):
    """Raised for an answer that cannot be used, with `field`, `reason` and `remedy`."""

    def __str__(self) -> str:
        return f"field {self.field}: {self.reason}; {self.remedy}"


class Answer(BaseModel):
    """One annotator's answer to one turn, both phases."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    interaction_id: str
    round: Annotated[int, Field(ge=0)]
    variant: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
    turn: Annotated[int, Field(ge=0)]
    annotator: str = Field(min_length=1, description="a pseudonym, never a raw id")
    intended: str | None = Field(
        default=None,
        description="first phase: the action the annotator would take: 'select A', 'nothing'; None of free text",
    )
    satisfaction: Literal["yes", "partial", "incorrect", "neutral", "no"] | None = Field(
        default=None, description="second phase; None without a follow-up"
    )


@dataclass(frozen=True)
class AnswersReport:
    """The result of importing a file of answers."""

    answers: int  # answers of this file in the table, new or imported before
    set_aside: int
    problems: str | None  # key of the answers set aside; None if there are none


# --- answers into the store -----------------------------------------------------------------------------------


def append_answers(store: Store, answers: Sequence[Answer], source: Source = "page") -> int:
    """Store answers, update the table, and return how many of them are new.

    If one answer cannot be used, none is stored. Repeating an answer changes nothing. Once this returns, the answers
    survive a crash. A crash before that leaves each partition's answers stored or not, and the next call, or
    `build_annotations`, updates the table.

    Raises:
        AnswerError: a turn that is not in the turns table, an intended action that is not legal in its state, a
            satisfaction without a follow-up or the reverse, or a turn that this annotator answered differently before.
        StoreError, TableError: as the store and tables do.
    """
    by_partition: dict[Partition, list[_Row]] = {}
    for partition in dict.fromkeys(Partition(answer.round, answer.variant) for answer in answers):
        turns, table = _turns(store, partition), _table_rows(store, partition)
        rows = by_partition.setdefault(partition, [])
        for answer in answers:
            if (answer.round, answer.variant) == partition and (row := _new_row(answer, turns, table, source)):
                table[_key(row)] = row
                rows.append(row)
    for partition, rows in by_partition.items():
        _store_rows(store, partition, rows)
    return sum(map(len, by_partition.values()))


def import_answers(store: Store, path: Path, source: Source = "file") -> AnswersReport:
    """Append a file of answers, one `Answer` as a JSON object per line; unusable ones are set aside.

    Importing a file again changes nothing.

    Raises:
        FileNotFoundError: no such file.
        StoreError, TableError: as the store and tables do.
    """
    by_partition: dict[Partition, list[tuple[int, Answer]]] = {}
    usable = 0
    with new_lines(store, SET_ASIDE) as problems, path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                answer = Answer.model_validate_json(line)
            except ValidationError as error:
                problems.add(from_validation(error).at(path.name, f"line {number}").to_json())
                continue
            by_partition.setdefault(Partition(answer.round, answer.variant), []).append((number, answer))
        for partition, numbered in by_partition.items():
            turns, table = _turns(store, partition), _table_rows(store, partition)
            rows: list[_Row] = []
            for number, answer in numbered:
                try:
                    row = _new_row(answer, turns, table, source)
                except AnswerError as error:
                    problems.add(error.at(path.name, f"line {number}").to_json())
                    continue
                usable += 1
                if row is not None:
                    table[_key(row)] = row
                    rows.append(row)
            _store_rows(store, partition, rows)
        key = problems.put(f"{SET_ASIDE}/answers/import-") if problems.count else None
        return AnswersReport(usable, problems.count, key)


def append_rows(store: Store, partition: Partition, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append annotations that the caller has checked: rows of the table without round and variant."""
    _store_rows(store, partition, [dict(row) for row in rows])


def build_annotations(store: Store) -> list[Partition]:
    """Update the table from all stored answers; return the partitions that have any."""
    partitions = partitions_with(store, ANSWERS, ".jsonl")
    for partition in partitions:
        _build(store, partition)
    return partitions


# --- reading --------------------------------------------------------------------------------------------------


def read_annotated(store: Store, round: int, variant: str) -> list[AnnotatedTurn]:
    """Read the annotations of a partition with their turns, for `turn_metrics`; sorted by game, turn and annotator.

    Annotations of turns that are no longer in the turns table are left out.
    """
    rows = [row for row in read_table(store, ANNOTATIONS, [round], [variant]).to_pylist() if row["source"] != REVIEW]
    turns = _turns(store, Partition(round, variant)) if rows else {}
    return [
        AnnotatedTurn(
            interaction_id=row["interaction_id"],
            turn=row["turn"],
            scenario=turn["scenario"],
            context=tuple(turn["context"]),
            state=turn["state"],
            action=turn["action"],
            intended=row["intended"],
            satisfaction=row["satisfaction"],
            annotator=row["annotator"],
            correct=row["correct"],
        )
        for row in sorted(rows, key=_key)
        if (turn := turns.get((row["interaction_id"], row["turn"]))) is not None
    ]


def answered_turns(store: Store) -> set[AnsweredTurn]:
    """Read which turns each annotator answered, in all rounds and variants, for `annotation_tasks.next_turn`."""
    columns = ["round", "variant", "interaction_id", "turn", "annotator"]
    return {tuple(row[name] for name in columns) for row in read_table(store, ANNOTATIONS, columns=columns).to_pylist()}


# --- one partition --------------------------------------------------------------------------------------------


def _turns(store: Store, partition: Partition) -> _Turns:
    columns = ["interaction_id", "turn", "scenario", "context", "state", "action", "follow_up"]
    table = read_table(store, "turns", [partition.round], [partition.variant], columns)
    return {(row["interaction_id"], row["turn"]): row for row in table.to_pylist()}


def _table_rows(store: Store, partition: Partition) -> dict[tuple[str, int, str], _Row]:
    """Update the table; return its rows by turn and annotator."""
    _build(store, partition)
    rows = read_table(store, ANNOTATIONS, [partition.round], [partition.variant]).to_pylist()
    return {_key(row): row for row in rows}


def _key(row: Mapping[str, Any]) -> tuple[str, int, str]:
    return row["interaction_id"], row["turn"], row["annotator"]


def _new_row(answer: Answer, turns: _Turns, table: Mapping[tuple[str, int, str], _Row], source: Source) -> _Row | None:
    """Check an answer and return its row, or None if the table has it already. Raises AnswerError."""
    turn = turns.get((answer.interaction_id, answer.turn))
    if turn is None:
        raise AnswerError(
            "turn",
            f"turn {answer.turn} of interaction {answer.interaction_id!r} is not in the turns table of round "
            f"{answer.round}, variant {answer.variant!r}",
            "correct the ids, or import the game first",
        )
    free_text = scenario(turn["scenario"]).free_text
    intended = None
    try:
        if answer.intended is not None or not free_text:
            intended = judge(turn["scenario"]).intended(answer.intended or "", turn["state"], turn["context"])
    except ScenarioError as error:
        raise AnswerError("intended", str(error), "give an action that is legal in the turn's state") from None
    misplaced = answer.satisfaction == NEUTRAL and not free_text
    if (turn["follow_up"] is None) != (answer.satisfaction is None) or misplaced:
        options = [each for each in LABELS if free_text or each != NEUTRAL]
        expected = "null: nothing follows the turn" if turn["follow_up"] is None else f"one of {options}"
        raise AnswerError("satisfaction", f"{answer.satisfaction!r}; expected {expected}", "correct it")
    row = {
        "interaction_id": answer.interaction_id,
        "turn": answer.turn,
        "annotator": answer.annotator,
        "intended": intended,
        "satisfaction": answer.satisfaction,
        "correct": None if intended is None else intended == turn["action"],
        "source": source,
    }
    before = table.get(_key(row))
    if before is None:
        return row
    if (before["intended"], before["satisfaction"]) != (row["intended"], row["satisfaction"]):
        raise AnswerError(
            "annotator", f"{answer.annotator!r} answered this turn otherwise before", "the first answer stands"
        )
    return None


def _store_rows(store: Store, partition: Partition, rows: Sequence[_Row]) -> None:
    """Store rows as one object, unless there are none, and build the table."""
    if rows:
        data = b"".join(json.dumps(row, sort_keys=True).encode() + b"\n" for row in rows)
        name = hashlib.sha256(data).hexdigest()[:32]
        store.put_if_absent(f"{partition.folder(ANSWERS)}{name}.jsonl", data)
        _build(store, partition)


def _build(store: Store, partition: Partition) -> None:
    """Build the partition of the table from its answers, unless it is up to date and complete.

    Rows of the table take precedence over new ones, and those are taken in order of keys. If two processes answer at
    once, each may miss the other's object; the one that commits second builds again.
    """
    keys = [key for key in store.keys(partition.folder(ANSWERS)) if key.endswith(".jsonl")]
    manifest = read_manifest(store, ANNOTATIONS, *partition)
    complete = manifest if not missing_parts(store, ANNOTATIONS, partition, manifest) else None
    inputs = {each.key: each for part in complete.parts for each in part.inputs} if complete else {}
    new = [key for key in keys if key not in inputs]
    if not new:
        return
    table = read_table(store, ANNOTATIONS, [partition.round], [partition.variant]).to_pylist() if complete else []
    rows = {_key(row): row for row in table}
    conflicts = complete.counts.get("answered_otherwise_later", 0) if complete else 0
    for key in new:
        data = store.read(key)
        inputs[key] = Input.of(key, data)
        for line in data.splitlines():
            row = json.loads(line) | partition._asdict()
            first = rows.setdefault(_key(row), row)
            conflicts += (first["intended"], first["satisfaction"]) != (row["intended"], row["satisfaction"])
    ordered = [rows[key] for key in sorted(rows)]
    try:
        write_partition(
            store,
            ANNOTATIONS,
            *partition,
            pa.Table.from_pylist(ordered, ANNOTATIONS_SCHEMA),
            inputs=[inputs[key] for key in sorted(inputs)],
            counts={"annotations": len(ordered), "answered_otherwise_later": conflicts},
            replaces=manifest,
        )
    except ChangedError:
        _build(store, partition)  # on top of the other process's commit
