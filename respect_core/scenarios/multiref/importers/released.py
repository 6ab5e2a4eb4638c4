"""Import the released dataset of the study (lil-lab/respect) into our logs and tables.

FOR MEASURING ONLY where it reads targets, as logs do.

- `interaction` and `turn` become logs of interactions, with p, which are exported to the tables `turns` and
  `outcomes`. Utterances, selections, targets and the end come from `interaction`; the listener's order of the images
  and p from `turn`. Actions follow from the selections: clicks that did not fit the state left none, so that an
  action logged with letters that do not fit is read without them.
- `human_eval` becomes annotations. It does not name a turn's annotators: they are numbered in the order of the rows.
- `feedback_decoder_*` become feedback. They have no scores: these are NaN.

Known irregularities in the files: p below zero, a marker for a lost probability (read as none); games without p (played
between people); a game that ended neither `successful` nor `unsuccessful` (not a success, by appendix B.4); a last
utterance without clicks (left out).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from reprlib import repr as brief
from typing import Any

import pyarrow as pa

from respect_core.log.export import export
from respect_core.log.imports import ImportRecord, note, require_new
from respect_core.log.log import SET_ASIDE, Lines, RecordError, append_logs, new_lines
from respect_core.log.records import InteractionLog
from respect_core.measuring.human_eval import append_rows
from respect_core.scenarios.multiref import actions
from respect_core.scenarios.multiref.importers.games import Renderer, draw, drawings_of
from respect_core.scenarios.multiref.importers.released_files import (
    HubDataset,
    Record,
    ReleasedError,
    ReleasedFiles,
    find,
)
from respect_core.scenarios.multiref.importers.released_games import (
    CORRECT,
    GAME_COLUMNS,
    RELEASED,
    TurnRow,
    game_log,
    letters_of,
    read_turns,
)
from respect_core.scenarios.multiref.importers.released_schema import DECODERS, SATISFACTION, derived_label
from respect_core.schemas import FEEDBACK_SCHEMA
from respect_core.store.base import Store
from respect_core.store.images import known_images
from respect_core.store.manifests import Partition, read_manifest
from respect_core.store.tables import write_partition

_GAME_TURN = re.compile(r"(.+)_(\d+)")
_EVAL = ["correctness", "feedback", "delta_clicks", "game_id", "turn_id"]
_FEEDBACK = ["predictions", "labels", "game_turn_id"]


@dataclass(frozen=True)
class ReleasedReport:
    """Counts and keys of what an import stored or set aside."""

    games: Mapping[Partition, int]
    turns: int
    successes: int
    ended_otherwise: int  # games that ended neither successful nor unsuccessful
    unanswered: int  # last utterances without clicks, left out
    without_turn_row: int  # turns that only `interaction` has, so without p
    with_probability: int  # turns with p
    annotations: int
    correctness_differs: int  # annotations whose `correctness` contradicts their clicks
    feedback: Mapping[str, int]  # decoded turns by decoder; 0 where the configuration is absent
    labels_differ: int  # rows of feedback whose `labels` do not follow from the targets
    without_picture: int  # images of the games without a picture in the store
    set_aside: int
    problems: str | None  # key of the rows set aside; None when there are none


@dataclass
class _Progress:
    """State that an import accumulates."""

    problems: Lines
    logs: dict[str, InteractionLog] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def set_aside(self, record: Record, error: RecordError) -> None:
        self.problems.add(error.at(record.file, record.name).to_json())


def import_released(
    store: Store, source: str, tangrams: Path | None = None, *, render: Renderer | None = None
) -> ReleasedReport:
    """Read the released dataset into a store: logs, images, and the tables made from them.

    Rows that cannot be used are set aside; importing again changes nothing. Memory holds the games and their turns
    (the released ones are 7,230 and 55,004), and a batch of rows.

    Args:
        source: folder of Parquet files, or the dataset's name on the hub.
        tangrams: folder of KILOGRAM's SVG files, named by image id. Without it the store gets no pictures: tables need
            none, and importing again with it adds them.
        render: from SVG file to image; by default KILOGRAM's importer at 224 pixels.

    Raises:
        ValueError: games are already in the log of another round or variant.
        ReleasedError: the dataset is not there, or has absent columns or columns of other types; or the store holds
            feedback from another source for the same games.
        StoreError: the folder of tangrams is absent, or the store cannot be written.
    """
    drawings = None if tangrams is None else drawings_of(tangrams)
    files = find(source)
    with new_lines(store, SET_ASIDE) as problems:
        progress = _Progress(problems)
        turn_rows = read_turns(files, progress.set_aside)
        for record in files.records("interaction", GAME_COLUMNS):
            _add_game(record, turn_rows, drawings, progress)
        for rows in turn_rows.values():
            for row in rows.values():
                if row.record.row["game_id"] not in progress.logs:
                    progress.set_aside(row.record, RecordError("game_id", "its game is not among the games", CORRECT))
        partitions = _store_games(store, progress, drawings, render)
        _store_annotations(store, files, progress)
        feedback: dict[str, int] = dict.fromkeys((str(decoder) for decoder in DECODERS), 0)
        _store_feedback(store, files, progress, feedback)
        key = problems.put(f"{SET_ASIDE}/released/import-") if problems.count else None
    logs = progress.logs.values()
    return ReleasedReport(
        games=partitions,
        turns=sum(len(log.turns) for log in logs),
        successes=sum(log.outcome is not None and log.outcome.success for log in logs),
        ended_otherwise=progress.counts["ended_otherwise"],
        unanswered=progress.counts["unanswered"],
        without_turn_row=progress.counts["without_turn_row"],
        with_probability=sum(turn.probability is not None for log in logs for turn in log.turns),
        annotations=progress.counts["annotations"],
        correctness_differs=progress.counts["correctness_differs"],
        feedback=feedback,
        labels_differ=progress.counts["labels_differ"],
        without_picture=len({image for log in logs for image in log.context} - known_images(store)),
        set_aside=problems.count,
        problems=key,
    )


# --- games ----------------------------------------------------------------------------------------------------


def _add_game(
    record: Record,
    turn_rows: Mapping[str, Mapping[int, TurnRow]],
    drawings: Mapping[str, Path] | None,
    progress: _Progress,
) -> None:
    """Add a game to the import, or set it aside."""
    counts: Counter[str] = Counter()
    try:
        if record.row["game_id"] in progress.logs:
            raise RecordError("game_id", f"{record.row['game_id']!r} is taken by an earlier game", CORRECT)
        log = game_log(record.row, turn_rows.get(record.row["game_id"], {}), counts, progress.set_aside)
    except RecordError as error:
        progress.set_aside(record, error)
        return
    if drawings is not None and (absent := [image for image in log.context if image not in drawings]):
        reason = f"image {absent[0]!r} has no drawing"
        progress.set_aside(record, RecordError("context", reason, f"add {absent[0]}.svg, import again"))
        return
    progress.counts += counts
    progress.logs[log.interaction_id] = log


def _store_games(
    store: Store, progress: _Progress, drawings: Mapping[str, Path] | None, render: Renderer | None
) -> dict[Partition, int]:
    """Store images, logs and the tables made from them, and return games by partition."""
    by_partition: dict[Partition, list[InteractionLog]] = {}
    for log in progress.logs.values():
        by_partition.setdefault(Partition(log.round, log.variant), []).append(log)
    for logs in by_partition.values():
        require_new(store, logs)
    images = {image for log in progress.logs.values() for image in log.context}
    if drawings is not None:
        draw(store, images, drawings, render)
    for _, logs in sorted(by_partition.items()):
        key, now = append_logs(store, logs), datetime.now(UTC).isoformat(timespec="seconds")
        note(store, ImportRecord(log=key, file=RELEASED, imported_at=now, games=len(logs)))
    for round in sorted({partition.round for partition in by_partition}):
        export(store, round, unseen=images)
    return {partition: len(logs) for partition, logs in sorted(by_partition.items())}


# --- annotations and feedback ---------------------------------------------------------------------------------


def _store_annotations(store: Store, files: ReleasedFiles | HubDataset, progress: _Progress) -> None:
    if not files.has("human_eval"):
        return
    rows: dict[Partition, list[dict[str, Any]]] = {}
    annotators: Counter[tuple[str, int]] = Counter()
    for record in files.records("human_eval", _EVAL):
        try:
            log, number = _turn_of(progress, record.row["game_id"], record.row["turn_id"], "game_id")
            row = _annotation(record.row, log, number, progress.counts)
        except RecordError as error:
            progress.set_aside(record, error)
            continue
        annotators[log.interaction_id, number] += 1
        name = {"annotator": f"annotator-{annotators[log.interaction_id, number]}"}
        rows.setdefault(Partition(log.round, log.variant), []).append(row | name)
    for partition, some in rows.items():
        append_rows(store, partition, some)
    progress.counts["annotations"] = sum(map(len, rows.values()))


def _annotation(row: Mapping[str, Any], log: InteractionLog, number: int, counts: Counter[str]) -> dict[str, Any]:
    correctness, feedback, clicks = row["correctness"], row["feedback"], row["delta_clicks"]
    if correctness not in ("yes", "no", None):
        raise RecordError("correctness", f"{brief(correctness)}, neither yes nor no", CORRECT)
    if feedback and feedback not in SATISFACTION:
        raise RecordError("feedback", f"{brief(feedback)}, none of {', '.join(SATISFACTION)}", CORRECT)
    action, marked_correct = log.turns[number].action, {"yes": True, "no": False}.get(correctness)
    intended: str | None = None
    if clicks or (clicks is not None and not marked_correct):
        state = log.states()[number]
        toggled = letters_of(clicks, dict(zip(log.context, actions.LETTERS, strict=False)), "delta_clicks")
        intended = str(actions.between(state, "".join(sorted(set(state) ^ set(toggled)))))
    elif clicks is not None:
        intended = action  # no clicks but the listener's, which were right
    correct = marked_correct if intended is None else intended == action
    counts["correctness_differs"] += marked_correct is not None and correct != marked_correct
    return {
        "interaction_id": log.interaction_id,
        "turn": number,
        "intended": intended,
        "satisfaction": SATISFACTION[feedback] if feedback else None,
        "correct": correct,
        "source": "released",
    }


def _store_feedback(
    store: Store, files: ReleasedFiles | HubDataset, progress: _Progress, counts: dict[str, int]
) -> None:
    rows: dict[Partition, list[dict[str, Any]]] = {}
    for decoder in DECODERS:
        configuration, names = f"feedback_decoder_{decoder}", set[str]()
        if not files.has(configuration):
            continue
        for record in files.records(configuration, _FEEDBACK):
            try:
                name = record.row["game_turn_id"] or ""
                if name in names:
                    raise RecordError("game_turn_id", f"{name!r} is taken by an earlier row", CORRECT)
                match = _GAME_TURN.fullmatch(name)
                if match is None:
                    raise RecordError("game_turn_id", f"{brief(name)} is not <game_id>_<turn_id>", CORRECT)
                log, number = _turn_of(progress, match[1], int(match[2]), "game_turn_id")
                row = _feedback(decoder, record.row, log, number)
            except RecordError as error:
                progress.set_aside(record, error)
                continue
            names.add(name)
            progress.counts["labels_differ"] += record.row["labels"] != derived_label(log, number)
            counts[decoder] += 1
            rows.setdefault(Partition(log.round, log.variant), []).append(row)
    for partition, some in rows.items():
        manifest = read_manifest(store, "feedback", *partition)
        if manifest and any(part.metadata.get("source") != RELEASED for part in manifest.parts):
            raise ReleasedError(
                f"{store.uri}: round {partition.round}, variant {partition.variant!r} holds feedback of another "
                "origin, which is kept; import the dataset into a run of its own"
            )
        some.sort(key=lambda row: (row["interaction_id"], row["turn"], row["decoder"]))
        table = pa.Table.from_pylist([row | partition._asdict() for row in some], FEEDBACK_SCHEMA)
        write_partition(store, "feedback", *partition, table, metadata={"source": RELEASED})


def _feedback(decoder: str, row: Mapping[str, Any], log: InteractionLog, number: int) -> dict[str, Any]:
    label = row["predictions"]
    if label not in ((-1, 1) if decoder == "binary" else (-1, 0, 1)):
        raise RecordError("predictions", f"{label!r} is no label of the {decoder} decoder", CORRECT)
    return {
        "interaction_id": log.interaction_id,
        "turn": number,
        "decoder": decoder,
        "label": label,
        "score": math.nan,
        "low_margin": False,
        "marked": None,
        "cut": None,
        "decoder_model": RELEASED,
        "decoder_revision": "released",
        "prompt_hash": "released",
        "thresholds": "{}",
    }


def _turn_of(progress: _Progress, game_id: str, number: int | None, column: str) -> tuple[InteractionLog, int]:
    """Return a row's game and turn. Raises RecordError."""
    log = progress.logs.get(game_id)
    if log is None:
        raise RecordError(column, f"game {game_id!r} is not among the games", CORRECT)
    if number is None or not 0 <= number < len(log.turns):
        raise RecordError("turn_id", f"turn {number} of a game of {len(log.turns)} turns", CORRECT)
    return log, number
