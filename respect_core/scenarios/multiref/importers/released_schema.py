"""Write our tables in the schema of the released dataset (lil-lab/respect): FOR MEASURING ONLY.

Five configurations: `interaction` (a row per game), `turn`, `human_eval` (a row per turn and annotator), and
`feedback_decoder_binary` and `feedback_decoder_ternary` (a row per turn). Images are file names. The released files
abbreviate policies (`POLICIES`); `sft` is the seed policy in round 0 and CONTROL afterwards.

The released schema has no place for seconds per turn, versions of policies and decoders, and scores: they are lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from respect_core.feedback.prompts import Exchange, Kind, zero_shot
from respect_core.log.records import InteractionLog, LoggedTurn, Outcome, PolicyIdentity
from respect_core.scenarios.multiref import actions
from respect_core.scenarios.multiref.judge import JUDGE
from respect_core.store.base import Store
from respect_core.store.manifests import Partition, partitions
from respect_core.store.tables import read_table
from respect_core.variants import CONTROL, HH, SEED, Variant

ENHANCED = "b-fft+"  # B-FFT with more adapters (appendix D)
POLICIES: Mapping[str, str] = {
    "bp": Variant.B_FFT,
    "tp": Variant.T_FFT,
    "ba": Variant.B_RL,
    "ta": Variant.T_RL,
    "bk": Variant.B_KTO,
    "tk": Variant.T_KTO,
    "bp+": ENHANCED,
    "hh": HH,
}
"""Released names to ours, except `sft`, which depends on the round (`variant_of`)."""
SATISFACTION: Mapping[str, str] = {
    "yes": "yes",
    "partial_correctness_satisfaction": "partial",
    "incorrect_satisfaction": "incorrect",
    "no": "no",
}
DECODERS: tuple[Kind, ...] = ("binary", "ternary")

_TEXT, _INTEGER, _IMAGES = pa.string(), pa.int64(), pa.list_(pa.string())
_FEEDBACK = pa.schema([("predictions", _INTEGER), ("labels", _INTEGER), ("game_turn_id", _TEXT), ("text", _TEXT)])
SCHEMAS: Mapping[str, pa.Schema] = {
    "interaction": pa.schema(
        [
            ("game_id", _TEXT),
            ("turn", _INTEGER),  # number of turns
            ("end", _TEXT),  # successful | unsuccessful
            ("s comments", _TEXT),
            ("speaker", _TEXT),
            ("len", _TEXT),  # "3.218 mins"
            ("clicks", pa.list_(_IMAGES)),  # images selected after each turn
            ("context", _IMAGES),
            ("targets", _IMAGES),
            ("chat", _IMAGES),  # the utterance of each turn
            ("dataset_alias", _TEXT),
            ("policy_name", _TEXT),
            ("date", _TEXT),
            ("round", _INTEGER),
        ]
    ),
    "turn": pa.schema(
        [
            ("chats", _IMAGES),  # utterances up to this turn
            ("clicks", pa.list_(_IMAGES)),  # selections up to this turn
            ("targets", _IMAGES),
            ("game_id", _TEXT),
            ("end", _INTEGER),  # 1 if the game was won
            ("context", _IMAGES),  # in the listener's order
            ("turn_id", _INTEGER),  # from 0
            ("currently_selected", _IMAGES),
            ("deselected", _IMAGES),
            ("selected", _IMAGES),
            ("chat_feedback", _TEXT),  # the next utterance
            ("game_turn_id", _TEXT),
            ("prob_action", pa.float64()),  # negative where it was lost
            ("dataset_alias", _TEXT),
            ("policy_name", _TEXT),
            ("date", _TEXT),
            ("round", _INTEGER),
        ]
    ),
    "human_eval": pa.schema(
        [
            ("correctness", _TEXT),  # yes | no
            ("feedback", _TEXT),
            ("delta_clicks", _IMAGES),  # the annotator's clicks
            ("game_id", _TEXT),
            ("turn_id", _INTEGER),
            ("round", _INTEGER),
            ("policy_name", _TEXT),
            ("targets", _IMAGES),
            ("selected", _IMAGES),
            ("deselected", _IMAGES),
            ("context", _IMAGES),
            ("end", _INTEGER),
            ("currently_selected", _IMAGES),
        ]
    ),
    "feedback_decoder_binary": _FEEDBACK,
    "feedback_decoder_ternary": _FEEDBACK,
}


def variant_of(policy_name: str, round: int) -> str | None:
    """Return our name for a released policy in a round; None for an unknown name."""
    if policy_name == "sft":
        return CONTROL if round else SEED
    return POLICIES.get(policy_name)


def policy_name_of(partition: Partition) -> str:
    """Return the released name of a partition's policy. Raises ValueError if the released files cannot name it."""
    for name in ("sft", *POLICIES):
        if variant_of(name, partition.round) == partition.variant:
            return name
    raise ValueError(
        f"round {partition.round}, variant {partition.variant!r} has no name in the released schema, which knows "
        f"{SEED} (round 0), {CONTROL} (later), {', '.join(POLICIES.values())}; export other variants by themselves"
    )


# --- export ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExportedRows:
    """Rows written per configuration, and games left out because they have no outcome."""

    rows: Mapping[str, int]
    without_outcome: int


def export_released(store: Store, directory: Path) -> ExportedRows:
    """Write the store's tables into `directory`: per configuration, a folder with one Parquet file, as `datasets` does.

    Existing files are replaced, each atomically. Memory holds one round of one variant.

    Raises:
        ValueError: a variant that the released schema cannot name.
        StoreError, TableError: the tables cannot be read.
    """
    exported = partitions(store, "turns")
    names = {partition: policy_name_of(partition) for partition in exported}
    rows, left_out = dict.fromkeys(SCHEMAS, 0), 0
    with ExitStack() as stack:
        writers = {name: stack.enter_context(_writer(directory, name)) for name in SCHEMAS}
        for partition in exported:
            logs, absent = _games(store, partition)
            left_out += absent
            for name, partition_rows in _rows(store, partition, names[partition], logs).items():
                writers[name].write_table(pa.Table.from_pylist(partition_rows, SCHEMAS[name]))
                rows[name] += len(partition_rows)
    for name in SCHEMAS:
        unfinished = _file(directory, name).with_suffix(".tmp")
        unfinished.replace(_file(directory, name))
    return ExportedRows(rows, left_out)


def _file(directory: Path, configuration: str) -> Path:
    return directory / configuration / "train-00000-of-00001.parquet"


def _writer(directory: Path, configuration: str) -> pq.ParquetWriter:
    path = _file(directory, configuration).with_suffix(".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    return pq.ParquetWriter(path, SCHEMAS[configuration])


def _games(store: Store, partition: Partition) -> tuple[list[InteractionLog], int]:
    """Return a partition's games that have an outcome, and the number of those that have none."""
    where = [partition.round], [partition.variant]
    turns: dict[str, list[dict[str, Any]]] = {}
    for row in read_table(store, "turns", *where).to_pylist():
        turns.setdefault(row["interaction_id"], []).append(row)
    logs, absent = [], 0
    for outcome in read_table(store, "outcomes", *where).to_pylist():
        if outcome["success"] is None:
            absent += 1
            continue
        ordered = sorted(turns[outcome["interaction_id"]], key=lambda row: row["turn"])
        first = ordered[0]
        logs.append(
            InteractionLog(
                interaction_id=outcome["interaction_id"],
                round=partition.round,
                variant=partition.variant,
                policy=PolicyIdentity(name=first["policy_name"], version=first["policy_version"]),
                user=first["user"],
                started_at=outcome["started_at"],
                context=first["context"],
                turns=[
                    LoggedTurn(
                        utterance=row["utterance"],
                        action=row["action"],
                        probability=row["probability"],
                        seconds=seconds,
                    )
                    for row, seconds in zip(ordered, outcome["seconds"], strict=True)
                ],
                outcome=Outcome(targets=outcome["targets"], success=outcome["success"]),
            )
        )
    return logs, absent


def _rows(
    store: Store, partition: Partition, policy_name: str, logs: Sequence[InteractionLog]
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every configuration for one partition."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}
    plus = "'" if policy_name == "bp+" else ""
    of_turn: dict[tuple[str, int], dict[str, Any]] = {}
    by_id = {log.interaction_id: log for log in logs}
    for log in logs:
        common = {
            "game_id": log.interaction_id,
            "dataset_alias": f"D{log.round + 1}{plus}",
            "policy_name": policy_name,
            "date": log.started_at[:10],
            "round": log.round,
        }
        turn_rows = list(_turn_rows(log))
        of_turn.update({(log.interaction_id, row["turn_id"]): row for row in turn_rows})
        rows["interaction"].append(_interaction_row(log) | common)
        rows["turn"] += [row | common for row in turn_rows]
    where = [partition.round], [partition.variant]
    for row in read_table(store, "annotations", *where).sort_by(_ORDER).to_pylist():
        if (turn := of_turn.get((row["interaction_id"], row["turn"]))) is not None:
            turn_fields = {name: turn.get(name) for name in SCHEMAS["human_eval"].names}
            log = by_id[row["interaction_id"]]
            game_fields = {"policy_name": policy_name, "round": log.round, "game_id": log.interaction_id}
            rows["human_eval"].append(turn_fields | game_fields | _annotation(row, log))
    feedback = read_table(store, "feedback", *where).sort_by([("interaction_id", "ascending"), ("turn", "ascending")])
    for row in feedback.to_pylist():
        if row["interaction_id"] in by_id:
            rows[f"feedback_decoder_{row['decoder']}"].append(_feedback_row(row, by_id[row["interaction_id"]]))
    return rows


_ORDER = [("interaction_id", "ascending"), ("turn", "ascending"), ("annotator", "ascending")]


def _interaction_row(log: InteractionLog) -> dict[str, Any]:
    assert log.outcome is not None
    seconds = [turn.seconds for turn in log.turns if turn.seconds is not None]
    return {
        "turn": len(log.turns),
        "end": "successful" if log.outcome.success else "unsuccessful",
        "speaker": log.user,
        "len": f"{sum(seconds) / 60:.3f} mins" if len(seconds) == len(log.turns) else None,
        "clicks": [files(log, state) for state in log.states()[1:]],
        "context": [f"{image}.png" for image in log.context],
        "targets": [f"{image}.png" for image in log.outcome.targets],
        "chat": [turn.utterance for turn in log.turns],
    }


def _turn_rows(log: InteractionLog) -> Iterator[dict[str, Any]]:
    """Yield rows of `turn` without the fields that all rows of a game share."""
    game, states = _interaction_row(log), log.states()
    for number, turn in enumerate(log.turns):
        action = actions.parse(turn.action)
        yield {
            "chats": game["chat"][: number + 1],
            "clicks": game["clicks"][: number + 1],
            "targets": game["targets"],
            "end": int(game["end"] == "successful"),
            "context": game["context"],
            "turn_id": number,
            "currently_selected": files(log, states[number]),
            "deselected": files(log, action.deselect),
            "selected": files(log, action.select),
            "chat_feedback": game["chat"][number + 1] if number + 1 < len(log.turns) else None,
            "game_turn_id": f"{log.interaction_id}_{number}",
            "prob_action": turn.probability,
        }


def _annotation(row: Mapping[str, Any], log: InteractionLog) -> dict[str, Any]:
    satisfaction = {ours: theirs for theirs, ours in SATISFACTION.items()}.get(row["satisfaction"])
    intended = None if row["intended"] is None else actions.parse(row["intended"])
    return {
        "correctness": None if row["correct"] is None else "yes" if row["correct"] else "no",
        "feedback": satisfaction,
        "delta_clicks": intended and files(log, intended.deselect + intended.select),
    }


def _feedback_row(row: Mapping[str, Any], log: InteractionLog) -> dict[str, Any]:
    number = row["turn"]
    previous = log.turns[number - 1].action if number else None
    following = log.turns[number + 1].utterance if number + 1 < len(log.turns) else ""
    exchange = Exchange(previous, log.turns[number].utterance, log.turns[number].action, following)
    return {
        "predictions": row["label"],
        "labels": derived_label(log, number),
        "game_turn_id": f"{log.interaction_id}_{number}",
        "text": f"User: {zero_shot(row['decoder']).text(exchange)}",
    }


def derived_label(log: InteractionLog, number: int) -> int:
    """Return the label of a turn that follows from the targets of its game."""
    assert log.outcome is not None
    return JUDGE.label(log.turns[number].action, log.context, log.outcome.targets)


def files(log: InteractionLog, letters: Iterable[str]) -> list[str]:
    """Return the image files of letters."""
    return [f"{log.context[actions.LETTERS.index(letter)]}.png" for letter in letters]
