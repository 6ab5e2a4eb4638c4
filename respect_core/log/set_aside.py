"""Set exported games aside, each with a reason: too long for the base, or fatal to a worker.

The tables keep their rows, but decoding, scoring and training skip these games. Each has a record next to those of
lines that the export set aside, `set_aside/round=R/variant=V/game-<hash of the id>.json`. Deleting it admits the game
again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress

from respect_core.log.log import SET_ASIDE, Problem
from respect_core.store.base import MissingKeyError, Store
from respect_core.store.manifests import Partition

_PLACE = re.compile(r"/round=(\d+)/")
_VALUES = re.compile(r", not .*|: line \d+ column \d+ .*|(['\"]).*\1", re.DOTALL)
"""What a reason quotes of a record, which may be what a user wrote."""


def without_values(reason: str) -> str:
    """Return a reason without what it quotes of the record."""
    return _VALUES.sub("", reason)


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


def reasons(store: Store, up_to: int | None = None) -> dict[str, Mapping[int, int]]:
    """Count what is set aside by reason and round, the most frequent reason first; values are cut out of reasons.

    Args:
        up_to: the last round to count; all if None.
    """
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for key in store.keys(f"{SET_ASIDE}/"):
        if (place := _PLACE.search(key)) is None or (up_to is not None and int(place[1]) > up_to):
            continue
        with suppress(MissingKeyError), closing(store.open(key)) as file:  # admitted again in the meantime
            for line in file:
                if reason := json.loads(line).get("reason"):  # marks of what was measured have none
                    counts[without_values(reason)][int(place[1])] += 1
    return {reason: counts[reason] for reason in sorted(counts, key=lambda each: (-counts[each].total(), each))}
