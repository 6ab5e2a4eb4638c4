"""Find the game that kills a worker, and do the work without it.

If a worker names a game, or is killed or fails the same way twice on one specification, it is not started again on the
same games: the culprit is set aside (`log.set_aside`), with the reason, and the work is done without it. The culprit is
found by bisection: a worker tries some of the games, and keeps nothing (`only` of a specification).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from respect_core.log import set_aside
from respect_core.log.log import Problem
from respect_core.store import tables
from respect_core.store.base import Store
from respect_core.store.manifests import Partition
from tasks.compute.places import Run
from tasks.compute.process import CULPRIT, CUT_OFF, NO_ROOM, REFUSED, ProgressCallback, WorkerFailedError
from tasks.compute.specs import ABOUT, DecodeSpec, Movable, TrainSpec
from tasks.support.files import write_whole

ALIKE = 2
"""How many times a worker ends the same way on one specification before its games are suspected."""
FAILURES = "failures.json"
"""File in which a worker's failures are counted."""
_ENDED_BY_OTHERS = (-2, -15, CUT_OFF)  # SIGINT, SIGTERM, the store or the disk
_REMEDY = "see the worker's log; delete this record to let the game in again"
_log = logging.getLogger(__name__)


def run(run: Run, spec: Movable, directory: Path, progress: ProgressCallback, **options: Any) -> Path:
    """Do what `run` does, leaving out games that make the work fail.

    Args:
        run: carries out a specification.
        options: options of `run`.

    Raises:
        WorkerFailedError: as `run` does, if no single game is to blame.
    """
    store, at_once = spec.workspace.open(), False
    while True:
        try:
            result = run(spec, directory, progress, **options)
        except WorkerFailedError as error:
            games = _games(store, spec)
            problem = _named(directory, games) or _suspect(run, spec, directory, error, games, at_once)
            if problem is None:
                raise
            _log.warning("set aside: %s", problem)
            set_aside.put(store, games[problem.record], problem)
            spec, at_once = spec.model_copy(update={"without": sorted({*spec.without, problem.record})}), True
        else:
            (directory / FAILURES).unlink(missing_ok=True)
            return result


def known(store: Store, round: int, variant: str) -> list[str]:
    """Games set aside since the training set that contains them was written."""
    aside = set_aside.games(store)
    if not aside:
        return []
    return sorted(aside.keys() & set(_ids(store, "training_sets", Partition(round, variant))))


def _games(store: Store, spec: Movable) -> dict[str, Partition]:
    """Return the games that the work reads, in order, and the partition of each."""
    table = "training_sets" if isinstance(spec, TrainSpec) else "turns"
    partitions = spec.partitions if isinstance(spec, DecodeSpec) else [Partition(spec.round, spec.variant)]
    chosen = spec.chosen()
    return {game: part for part in partitions for game in _ids(store, table, part) if chosen(game)}


def _ids(store: Store, table: str, partition: Partition) -> list[str]:
    batches = tables.iter_batches(store, table, [partition.round], [partition.variant], ["interaction_id"])
    return list(dict.fromkeys(game for batch in batches for game in batch.column(0).to_pylist()))


def _named(directory: Path, games: dict[str, Partition]) -> Problem | None:
    """Return the problem that the worker itself names, if its game may be left out: a validation game may not."""
    if not (directory / CULPRIT).exists():
        return None
    said = json.loads((directory / CULPRIT).read_text())
    if said["game"] not in games:
        return None
    return Problem(games[said["game"]].folder("turns"), said["game"], f"turns[{said['turn']}]", said["reason"], _REMEDY)


def _suspect(
    run: Run, spec: Movable, directory: Path, error: WorkerFailedError, games: dict[str, Partition], at_once: bool
) -> Problem | None:
    """Return the game that kills a worker, if this failure is worth the search."""
    times = _count(directory, spec, error.code)
    if error.code in (REFUSED, *_ENDED_BY_OTHERS) or not (at_once or error.code == NO_ROOM or times == ALIKE):
        return None
    _log.warning("a worker ended with exit code %d again and again: looking for the game that it dies of", error.code)
    fails = partial(_fails, run, spec, directory / "tried")
    for suspects in (_in_hand(spec, directory, games), list(games)):
        game = find(suspects, list(games), fails)
        if game is not None:
            reason = f"a worker that reads it ends with exit code {error.code}"
            return Problem(games[game].folder("turns"), game, "", reason, _REMEDY)
    return None


def find(suspects: Sequence[str], games: Sequence[str], fails: Callable[[Sequence[str]], bool]) -> str | None:
    """Return the game that makes `fails` true by itself while some other game does not, or None."""
    if not suspects or not fails(suspects):
        return None
    while len(suspects) > 1:
        first, second = suspects[: len(suspects) // 2], suspects[len(suspects) // 2 :]
        if fails(first):
            suspects = first
        elif fails(second):
            suspects = second
        else:
            return None  # it takes several
    others = [game for game in games if game not in suspects]
    # If it fails with any game, the reason is another one.
    return suspects[0] if others and not (fails(others[:1]) and fails(others[-1:])) else None


def _fails(run: Run, spec: Movable, directory: Path, games: Sequence[str]) -> bool:
    """Return whether a worker fails on these games alone."""
    place = {"directory": directory} if "directory" in type(spec).model_fields else {}
    tried = spec.model_copy(update={"only": list(games), **place})
    try:
        run(tried, directory, lambda *_: None, again=True)
    except WorkerFailedError as error:
        if error.code in _ENDED_BY_OTHERS:
            raise
        return True
    return False


def _count(directory: Path, spec: Movable, code: int) -> int:
    """Return how many times in a row the specification has ended this way, including this time."""
    file, end = directory / FAILURES, {"specification": spec.key(), "code": code}
    before = json.loads(file.read_text()) if file.exists() else {}
    times = before["times"] + 1 if before.items() >= end.items() else 1
    write_whole(file, json.dumps({**end, "times": times}))
    return times


def _in_hand(spec: Movable, directory: Path, games: dict[str, Partition]) -> list[str]:
    """Return the games that the worker was processing, as far as it recorded them."""
    if isinstance(spec, TrainSpec):
        return _of_the_next_step(spec)
    about = directory / ABOUT
    return [game for game in json.loads(about.read_text()) if game in games] if about.exists() else []


def _of_the_next_step(spec: TrainSpec) -> list[str]:
    from respect_core.learning import trainer
    from respect_core.learning.checkpoints import HISTORY
    from respect_core.training_data import sampling

    table = tables.read_table(spec.workspace.open(), "training_sets", [spec.round], [spec.variant])
    chosen = spec.chosen()
    examples = [each for each in sampling.examples(table) if chosen(each.interaction.interaction_id)]
    plan, history = trainer.plan_steps(examples, spec.training, spec.seed), spec.directory / HISTORY
    lines = [json.loads(line) for line in history.read_text().splitlines()] if history.exists() else []
    step = sum("checkpoint" not in line for line in lines)
    return [game.interaction.interaction_id for game in plan[step][1].games] if step < len(plan) else []
