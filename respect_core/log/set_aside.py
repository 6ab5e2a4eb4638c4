"""Set exported games aside, each with a reason: too long for the base, or fatal to a worker.

The tables keep their rows, but decoding, scoring and training skip these games. Each has a record next to those of
lines that the export set aside, `set_aside/round=R/variant=V/game-<hash of the id>.json`. Deleting it admits the game
again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from respect_core.log.log import SET_ASIDE, Problem
from respect_core.store.base import MissingKeyError, Store
from respect_core.store.manifests import Partition


def put(store: Store, partition: Partition, problem: Problem) -> None:
    """Set the game `problem.record` aside, unless it is already."""
    digest = hashlib.sha256(problem.record.encode()).hexdigest()[:32]
    store.put_if_absent(f"{partition.folder(SET_ASIDE)}game-{digest}.json", problem.to_json())


def games(store: Store, partitions: Iterable[Partition] | None = None) -> dict[str, Problem]:
    """Return the games set aside, by id: of all partitions, or of these."""
    folders = [f"{SET_ASIDE}/"] if partitions is None else [each.folder(SET_ASIDE) for each in partitions]
    keys = [key for folder in folders for key in store.keys(folder) if key.rpartition("/")[2].startswith("game-")]
    problems: dict[str, Problem] = {}
    for key in keys:
        try:
            problem = Problem(**json.loads(store.read(key)))
        except MissingKeyError:  # it has just been admitted again
            continue
        problems[problem.record] = problem
    return problems
