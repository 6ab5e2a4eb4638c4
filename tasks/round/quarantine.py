"""Find users who are to be left out of training, once a round's feedback is there."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from prefect import get_run_logger, task

from respect_core.profiles import Profile
from respect_core.store import tables
from respect_core.store.base import Store
from respect_core.store.open import stores_in
from respect_core.training_data import quarantine
from respect_core.variants import DecoderKind
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace


@task(name="quarantine", task_run_name="quarantine round {round}", **PATIENT)
def quarantine_users(workspace: Workspace, profile: Profile, round: int) -> list[str]:
    """Record users whose follow-ups up to this round fit nobody else's, and return who they are, with the reason."""
    if not profile.limits.quarantine:
        return []
    store, rounds = workspace.open(), range(round + 1)
    owners = quarantine.Owners(tables.iter_batches(store, "turns", rounds, columns=["interaction_id", "user"]))
    first = partial(_labels, store, rounds, DecoderKind.BINARY)
    differing = {"ternary": quarantine.differences(owners, first(), _labels(store, rounds, DecoderKind.TERNARY))}
    for name, other in stores_in(store, "redecoded").items():
        again = _labels(other, rounds, DecoderKind.BINARY)
        differing[name] = quarantine.differences(owners, first(), again, store.scratch)
    found = quarantine.suspects(differing, quarantine.praises(owners, first()), round)
    new = quarantine.add(store, found)
    for each in new:
        get_run_logger().warning("left out of training: %s", each)
    return [str(each) for each in new]


def _labels(store: Store, rounds: range, kind: DecoderKind) -> Iterator[pa.RecordBatch]:
    columns = ["interaction_id", "turn", "decoder", "label"]
    for batch in tables.iter_batches(store, "feedback", rounds, columns=columns):
        yield batch.filter(pc.equal(batch.column("decoder"), str(kind)))
