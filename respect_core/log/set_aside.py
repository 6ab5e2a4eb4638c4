"""Exported games that no model is to read, each with its reason: too long for the base, or fatal to a worker.

The tables keep their rows; whoever decodes, scores or trains leaves these games out. A record is one object beside
those of lines that the export set aside, `set_aside/round=R/variant=V/game-<hash of the id>.json`. Deleting it lets the
game in again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from respect_core.log.log import SET_ASIDE, Problem
from respect_core.store.base import MissingKeyError, Store
from respect_core.store.manifests import Partition


def put(store: Store, partition: Partition, problem: Problem) -> None:
    """Set the game `problem.record` aside, unless it is."""
    digest = hashlib.sha256(problem.record.encode()).hexdigest()[:32]
    store.put_if_absent(f"{partition.folder(SET_ASIDE)}game-{digest}.json", problem.to_json())


def games(store: Store, partitions: Iterable[Partition] | None = None) -> dict[str, Problem]:
    """The games set aside, by id: of all partitions, or of these."""
    folders = [f"{SET_ASIDE}/"] if partitions is None else [each.folder(SET_ASIDE) for each in partitions]
    keys = [key for folder in folders for key in store.keys(folder) if key.rpartition("/")[2].startswith("game-")]
    found: dict[str, Problem] = {}
    for key in keys:
        try:
            problem = Problem(**json.loads(store.read(key)))
        except MissingKeyError:  # it has just been let in again
            continue
        found[problem.record] = problem
    return found
