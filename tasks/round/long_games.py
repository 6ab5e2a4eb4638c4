"""Set aside exported games that are too long for a round's base model, whole, before anything reads them.

They are not cut before the turn that is too long: every entry point of this project refuses such a turn, so the game
was written by other means, and without its end its last follow-up and its outcome would belong to nothing.
"""

from __future__ import annotations

import hashlib
from functools import cache, partial

from respect_core.log import set_aside
from respect_core.log.lengths import COLUMNS, Budget, Ruler, too_long
from respect_core.log.log import SET_ASIDE, Problem
from respect_core.profiles import Profile
from respect_core.scenario import scenario
from respect_core.store import manifests, tables
from respect_core.store.base import Store

REMEDY = "shorten it in the log and export again, or delete this record and train with a base that takes more"


def set_aside_long(store: Store, profile: Profile, round: int) -> None:
    """Set aside what is too long in the rounds up to `round`. A partition is measured once per base model.

    Raises:
        OSError: the base model's processor cannot be loaded.
    """
    for partition in manifests.partitions(store, "turns"):
        if partition.round > round:
            continue
        measured = [
            manifests.table_input(store, "turns", *partition).sha256,
            profile.base,
            profile.scenario,
            str(Budget()),
        ]
        digest = hashlib.sha256(" ".join(measured).encode()).hexdigest()[:32]
        mark = f"{partition.folder(SET_ASIDE)}measured-{digest}.json"
        if store.exists(mark):
            continue
        batches = partial(tables.iter_batches, store, "turns", [partition.round], [partition.variant], COLUMNS)
        for game, excess in too_long(batches, partial(_ruler, profile.base, profile.scenario)):
            field = f"turns[{excess.turn}].utterance"
            set_aside.put(store, partition, Problem(partition.folder("turns"), game, field, excess.reason, REMEDY))
        store.put(mark, b"{}")


@cache
def _ruler(base: str, scenario_name: str) -> Ruler:
    from respect_core.model.base import load_processor  # takes seconds, and ordinary games are known to fit without it

    return Ruler(load_processor(base), scenario(scenario_name))
