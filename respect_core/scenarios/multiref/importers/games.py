"""Read the authors' logs of games: a pickled dict from game id to a dict per game.

Of a game we read ``_id``, ``created_at``, ``speaker``, ``context_listener`` (image files in the listener's order),
``chat`` (the utterance of each turn), ``clicks`` (the images selected after each turn), ``targets``, ``end`` and the
seconds in ``turnList``. States and actions follow from the selections. These logs have no action probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from PIL import Image
from pydantic import ValidationError

from respect_core.log.lengths import spoken
from respect_core.log.log import SET_ASIDE, Problem, RecordError, append_logs, from_validation, new_lines
from respect_core.log.pseudonyms import pseudonym
from respect_core.log.records import InteractionLog, LoggedTurn, Outcome, PolicyIdentity
from respect_core.scenarios.multiref import actions
from respect_core.scenarios.multiref.importers import plain_pickle
from respect_core.store.base import Store, StoreError
from respect_core.store.images import image_key, known_images, put_images
from respect_core.store.manifests import Partition

UNKNOWN_POLICY = PolicyIdentity(name="unknown", version="unknown")
_ENDS = {"successful": True, "unsuccessful": False}
_AT_ONCE = 128  # images rendered per write
_CORRECT = "correct the game in the file, or leave it out"

Renderer = Callable[[Path], Image.Image]


@dataclass(frozen=True)
class ImportReport:
    """Counts and keys of what an import stored or set aside."""

    games: int
    turns: int
    turns_with_followup: int
    successes: int
    set_aside: int
    images: int  # used by the games
    new_images: int  # those that were not in the store before
    log: str | None  # key of the log object; None if no game was usable
    problems: str | None  # key of the records set aside; None if there are none


def read_games(
    path: Path, round: int, variant: str, policy: PolicyIdentity = UNKNOWN_POLICY
) -> Iterator[InteractionLog | Problem]:
    """Read the games of a file in order: each as a log record, or as the problem that excludes it.

    Raises:
        PickleError: the file is not a pickle of plain data (`plain_pickle.load`), or not a dict of games.
    """
    games = plain_pickle.load(path)
    if not isinstance(games, dict):
        raise plain_pickle.PickleError(f"{path}: holds a {type(games).__name__}; expected a dict from game id to game")
    ids: set[str] = set()
    for name, game in games.items():
        try:
            log = _log(game, round, variant, policy)
            if log.interaction_id in ids:
                raise RecordError("_id", f"{log.interaction_id!r} is taken by an earlier game", _CORRECT)
        except RecordError as error:
            yield error.at(path.name, f"game {brief(name)}")
            continue
        ids.add(log.interaction_id)
        yield log


def import_games(
    store: Store,
    path: Path,
    tangrams: Path,
    round: int,
    variant: str,
    *,
    policy: PolicyIdentity = UNKNOWN_POLICY,
    render: Renderer | None = None,
    check: Callable[[Sequence[InteractionLog]], None] = lambda _: None,
) -> ImportReport:
    """Import a file of games into the store: a log object, the images they use, and the games set aside.

    Importing a file again changes nothing. A game with an image for which `tangrams` has no drawing is set aside.

    Args:
        tangrams: folder of KILOGRAM's SVG files, named by image id.
        policy: the policy that acted, if known.
        render: from SVG file to image; by default KILOGRAM's importer at 224 pixels.
        check: called with the games before anything is stored; may raise to refuse them.

    Raises:
        PickleError: the file as a whole cannot be read.
        StoreError: the folder of tangrams is absent, or the store cannot be written.
    """
    drawings = drawings_of(tangrams)
    partition = Partition(round, variant)
    logs: list[InteractionLog] = []
    with new_lines(store, partition.folder(SET_ASIDE)) as problems:
        for entry in read_games(path, round, variant, policy):
            problem = entry if isinstance(entry, Problem) else undrawn(entry, drawings, path.name, tangrams)
            if problem:
                problems.add(problem.to_json())
            elif isinstance(entry, InteractionLog):
                logs.append(entry)
        check(logs)
        set_aside = problems.put(partition.folder(SET_ASIDE) + "import-") if problems.count else None
    images = sorted({image for log in logs for image in log.context})
    new_images = draw(store, images, drawings, render)
    turns = sum(len(log.turns) for log in logs)
    return ImportReport(
        games=len(logs),
        turns=turns,
        turns_with_followup=turns - len(logs),
        successes=sum(log.outcome is not None and log.outcome.success for log in logs),
        set_aside=problems.count,
        images=len(images),
        new_images=new_images,
        log=append_logs(store, logs) if logs else None,
        problems=set_aside,
    )


# --- one game -------------------------------------------------------------------------------------------------


def _log(game: Any, round: int, variant: str, policy: PolicyIdentity) -> InteractionLog:
    """Convert one game to a log record. Raises RecordError."""
    if not isinstance(game, dict):
        raise RecordError("", f"a {type(game).__name__}, not a dict", _CORRECT)
    context = _images("context_listener", _strings(_field(game, "context_listener"), "context_listener"))
    letters = dict(zip(context, actions.LETTERS, strict=False))
    utterances = _strings(_field(game, "chat"), "chat")
    clicks = _field(game, "clicks")
    if not isinstance(clicks, list) or len(clicks) != len(utterances):
        count = len(clicks) if isinstance(clicks, list) else "no list of"
        raise RecordError("clicks", f"{count} selections for {len(utterances)} utterances in chat", _CORRECT)
    end = _field(game, "end")
    if not isinstance(end, str) or end not in _ENDS:
        raise RecordError("end", f"{brief(end)}, neither {' nor '.join(_ENDS)}", _CORRECT)
    turns, state = [], ""
    for number, (utterance, clicked) in enumerate(zip(utterances, clicks, strict=True)):
        field = f"clicks[{number}]"
        after = _state(_images(field, _strings(clicked, field)), letters, field)
        action = str(actions.between(state, after))
        text = spoken(utterance, f"chat[{number}]", _CORRECT)
        if not text.strip():
            raise RecordError(f"chat[{number}]", "the utterance is empty", _CORRECT)
        turns.append({"utterance": text, "action": action, "seconds": _seconds(game, number)})
        state = after
    try:
        return InteractionLog(
            interaction_id=_string(game, "_id"),
            round=round,
            variant=variant,
            policy=policy,
            user=pseudonym(_string(game, "speaker")),
            started_at=_start_time(game),
            context=context,
            turns=[LoggedTurn.model_validate(turn) for turn in turns],
            outcome=Outcome(
                targets=_images("targets", _strings(_field(game, "targets"), "targets")), success=_ENDS[end]
            ),
        )
    except ValidationError as error:
        problem = from_validation(error)
        raise RecordError(problem.field, problem.reason, _CORRECT) from None


def _field(game: Mapping[str, Any], name: str) -> Any:
    if name not in game:
        raise RecordError(name, "the field is absent", "add it, or leave the game out")
    return game[name]


def _string(game: Mapping[str, Any], name: str) -> str:
    value = _field(game, name)
    if not isinstance(value, str) or not value:
        raise RecordError(name, f"{brief(value)} is no text", _CORRECT)
    return value


def _strings(value: Any, field: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RecordError(field, f"{brief(value)} is not a list of strings", _CORRECT)
    return value


def _images(field: str, files: Iterable[str]) -> list[str]:
    """Return image ids: file names without suffix."""
    names = [file.removesuffix(".png").removesuffix(".svg") for file in files]
    for name in names:
        try:
            image_key(name)
        except StoreError:
            raise RecordError(field, f"{brief(name)} is no image id", _CORRECT) from None
    return names


def _state(selected: Iterable[str], letters: Mapping[str, str], field: str) -> str:
    unknown = sorted(set(selected) - set(letters))
    if unknown:
        raise RecordError(field, f"{unknown[0]!r} is not in context_listener", _CORRECT)
    return "".join(sorted({letters[image] for image in selected}))


def _seconds(game: Mapping[str, Any], number: int) -> float | None:
    """Return the seconds from the start of a turn until its clicks were submitted; None where not logged."""
    try:
        value = game["turnList"][number]["secUntilSubmit"]
    except (KeyError, IndexError, TypeError):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return float(value)


def _start_time(game: Mapping[str, Any]) -> str:
    value = _string(game, "created_at")
    try:
        return datetime.fromisoformat(value).isoformat()
    except ValueError:
        raise RecordError("created_at", f"{brief(value)} is not a date and time in ISO 8601", _CORRECT) from None


# --- images ---------------------------------------------------------------------------------------------------


def drawings_of(tangrams: Path) -> dict[str, Path]:
    """List the SVG files of a folder by image id. Raises StoreError if there is no such folder."""
    if not tangrams.is_dir():
        raise StoreError(f"{tangrams}: no such folder; give the folder of KILOGRAM's SVG files")
    return {file.stem: file for file in tangrams.glob("*.svg")}


def undrawn(log: InteractionLog, drawings: Mapping[str, Path], file: str, tangrams: Path) -> Problem | None:
    """Return the problem of a game with an image that has no drawing; None if all have one."""
    absent = [image for image in log.context if image not in drawings]
    if not absent:
        return None
    reason = f"image {absent[0]!r} has no drawing in {tangrams.name}/"
    return Problem(
        file, f"game {brief(log.interaction_id)}", "context_listener", reason, f"add {absent[0]}.svg, import again"
    )


def draw(store: Store, used: Iterable[str], drawings: Mapping[str, Path], render: Renderer | None = None) -> int:
    """Render and store the images that the store lacks, and return their number."""
    render, stored = render or _default_renderer(), known_images(store)
    absent = [image for image in used if image not in stored]
    return sum(
        put_images(store, {image: render(drawings[image]) for image in absent[start : start + _AT_ONCE]})
        for start in range(0, len(absent), _AT_ONCE)
    )


def _default_renderer() -> Renderer:
    from respect_core.scenarios.multiref.importers.kilogram import read_svg
    from respect_core.scenarios.multiref.tangrams import render

    return lambda path: render(read_svg(path), size=224)
