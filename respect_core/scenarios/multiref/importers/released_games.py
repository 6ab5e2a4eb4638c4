"""Convert games of the released dataset, rows of `interaction` and `turn`, to log records.

Utterances, selections, targets and the end come from `interaction`; the listener's order of the images and p from
`turn`. Actions follow from the selections, as in the study, where letters that did not fit the state had no effect.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from reprlib import repr as brief
from typing import Any

from pydantic import ValidationError

from respect_core.log.lengths import spoken
from respect_core.log.log import RecordError, from_validation
from respect_core.log.pseudonyms import pseudonym
from respect_core.log.records import InteractionLog, LoggedTurn, Outcome, PolicyIdentity
from respect_core.scenarios.multiref import actions
from respect_core.scenarios.multiref.actions import Action
from respect_core.scenarios.multiref.importers.released_files import HubDataset, Record, ReleasedFiles
from respect_core.scenarios.multiref.importers.released_schema import variant_of
from respect_core.store.base import StoreError
from respect_core.store.images import image_key

RELEASED = "lil-lab/respect"
CORRECT = "correct the row in the file, or leave it out"
GAME_COLUMNS = [
    "game_id",
    "end",
    "speaker",
    "clicks",
    "context",
    "targets",
    "chat",
    "policy_name",
    "date",
    "round",
]
_TURN_COLUMNS = [
    "game_id",
    "turn_id",
    "context",
    "currently_selected",
    "deselected",
    "selected",
    "prob_action",
    "round",
]
_ENDS = ("successful", "unsuccessful")
_PSEUDONYM = re.compile(r"[0-9a-f]{16}|[0-9a-f]{32}")  # ours, or the study's
_SURE = 1 + 1e-6  # p may exceed 1 by rounding

SetAside = Callable[[Record, RecordError], None]


@dataclass(frozen=True)
class TurnRow:
    """A row of `turn`, and its p if it has one."""

    record: Record
    probability: float | None


def read_turns(files: ReleasedFiles | HubDataset, set_aside: SetAside) -> dict[str, dict[int, TurnRow]]:
    """Read rows of `turn` by game and turn; the first where a turn has several."""
    rows: dict[str, dict[int, TurnRow]] = {}
    for record in files.records("turn", _TURN_COLUMNS):
        game_id, number = record.row["game_id"], record.row["turn_id"]
        game_turns = rows.setdefault(game_id, {})
        if number is None or number < 0:
            set_aside(record, RecordError("turn_id", f"{number!r} is no turn", CORRECT))
        elif number in game_turns:
            first = game_turns[number].record
            reason = f"turn {number} of game {game_id!r} is taken by {first.name} of {first.file}"
            set_aside(record, RecordError("turn_id", reason, CORRECT))
        else:
            game_turns[number] = TurnRow(record, _probability(record.row["prob_action"]))
    return rows


def game_log(
    row: Mapping[str, Any], turn_rows: Mapping[int, TurnRow], counts: Counter[str], set_aside: SetAside
) -> InteractionLog:
    """Convert one game to a log record. Turn rows that do not fit it are set aside.

    Counts `unanswered` (a last utterance without clicks), `ended_otherwise` and `without_turn_row`.

    Raises RecordError for a game that cannot be used.
    """
    for name in ("game_id", "clicks", "context", "targets", "chat", "policy_name", "date", "round"):
        if row[name] is None:
            raise RecordError(name, "null", CORRECT)
    variant = variant_of(row["policy_name"], row["round"])
    if variant is None:
        raise RecordError("policy_name", f"{row['policy_name']!r} is no policy of the study", CORRECT)
    utterances = list(row["chat"])
    if len(utterances) == len(row["clicks"]) + 1:
        counts["unanswered"] += 1
        utterances.pop()
    if len(utterances) != len(row["clicks"]):
        raise RecordError("clicks", f"{len(row['clicks'])} selections for {len(utterances)} utterances", CORRECT)
    counts["ended_otherwise"] += row["end"] not in _ENDS
    context = _context(row, turn_rows)
    letters = dict(zip(context, actions.LETTERS, strict=False))
    turns, state = [], ""
    for number, (utterance, clicked) in enumerate(zip(utterances, row["clicks"], strict=True)):
        text = spoken(utterance or "", f"chat[{number}]", CORRECT)
        if not text.strip():
            raise RecordError(f"chat[{number}]", "the utterance is empty", CORRECT)
        after = letters_of(clicked or [], letters, f"clicks[{number}]")
        action = actions.between(state, after)
        probability = None
        if (turn := turn_rows.get(number)) is None:
            counts["without_turn_row"] += 1
        elif (error := _misfit(turn.record.row, row, letters, state, action)) is not None:
            set_aside(turn.record, error)
        else:
            probability = turn.probability
        turns.append(LoggedTurn(utterance=text, action=str(action), probability=probability))
        state = after
    for number in turn_rows.keys() - range(len(turns)):
        reason = f"turn {number} of a game of {len(turns)} turns"
        set_aside(turn_rows[number].record, RecordError("turn_id", reason, CORRECT))
    try:
        return InteractionLog(
            interaction_id=row["game_id"],
            round=row["round"],
            variant=variant,
            policy=PolicyIdentity(name=f"{RELEASED}:{row['policy_name']}", version="released"),
            user=_user(row["speaker"]),
            started_at=_date(row["date"]),
            context=context,
            turns=turns,
            outcome=Outcome(targets=_names(row["targets"], "targets"), success=row["end"] == "successful"),
        )
    except ValidationError as error:
        problem = from_validation(error)
        raise RecordError(problem.field, problem.reason, CORRECT) from None


def _context(row: Mapping[str, Any], turn_rows: Mapping[int, TurnRow]) -> list[str]:
    """Return the images in the listener's order, which is `turn`'s; `interaction` has them in another order."""
    context = _names(row["context"], "context")
    if not turn_rows:
        return context
    listeners = _names(turn_rows[min(turn_rows)].record.row["context"] or [], "context")
    if sorted(listeners) != sorted(context):
        raise RecordError("context", "not the images of the game's rows in turn", CORRECT)
    return listeners


def _misfit(
    turn: Mapping[str, Any], game: Mapping[str, Any], letters: Mapping[str, str], state: str, action: Action
) -> RecordError | None:
    """Return why a row of `turn` is not this turn of the game, and its p unusable; None if it is."""
    try:
        before, selected, deselected = (
            letters_of(turn[name] or [], letters, name) for name in ("currently_selected", "selected", "deselected")
        )
    except RecordError as error:
        return error
    if turn["round"] != game["round"]:
        return RecordError("round", f"{turn['round']}, where the game has {game['round']}", CORRECT)
    if before != state:
        return RecordError("currently_selected", f"{before!r}, where the game's clicks lead to {state!r}", CORRECT)
    fitting = Action(
        "".join(letter for letter in deselected if letter in state),
        "".join(letter for letter in selected if letter not in state),
    )
    if fitting != action:
        return RecordError("selected", f"{str(fitting)!r}, where the game's clicks make {str(action)!r}", CORRECT)
    return None


def _names(files: Iterable[str], column: str) -> list[str]:
    """Return image ids: file names without suffix."""
    names = [(file or "").removesuffix(".png").removesuffix(".svg") for file in files]
    for name in names:
        try:
            image_key(name)
        except StoreError:
            raise RecordError(column, f"{brief(name)} is no image id", CORRECT) from None
    return names


def letters_of(files: Iterable[str], letters: Mapping[str, str], column: str) -> str:
    """Return the letters of image files, in alphabetical order. Raises RecordError, naming the column."""
    names = set(_names(files, column))
    if unknown := sorted(names - set(letters)):
        raise RecordError(column, f"{unknown[0]!r} is not in the context", CORRECT)
    return "".join(sorted(letters[name] for name in names))


def _probability(value: float | None) -> float | None:
    if value is None or not math.isfinite(value) or not 0 < value <= _SURE:
        return None
    return min(value, 1.0)


def _user(speaker: str | None) -> str:
    """Return a pseudonym: the study's own, as in its files, or a new one for any other value."""
    if speaker is None:
        return "unknown"
    return speaker if _PSEUDONYM.fullmatch(speaker) else pseudonym(speaker)


def _date(value: str) -> str:
    try:
        return datetime.fromisoformat(value).date().isoformat()
    except ValueError:
        raise RecordError("date", f"{brief(value)} is not a date in ISO 8601", CORRECT) from None
