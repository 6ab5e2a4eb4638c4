"""Make a variant's training set: eligible turns, with D0 rehearsed, and negatives at 5:4 (appendix B.3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from prefect import get_run_logger, task

from respect_core.feedback import reviews
from respect_core.interaction import TurnKey
from respect_core.log import forgetting, set_aside
from respect_core.log.records import turn_rows
from respect_core.measuring.labels import right_turns
from respect_core.profiles import Profile
from respect_core.release.lineage import data_hash
from respect_core.scenario import scenario
from respect_core.schemas import TURNS_SCHEMA
from respect_core.store import manifests, parts, tables
from respect_core.store.base import Store
from respect_core.store.manifests import Partition
from respect_core.training_data import curated, eligibility, quarantine
from respect_core.training_data.eligibility import Tally
from respect_core.training_data.sources import learning_partitions
from respect_core.variants import SEED, FeedbackSource, Objective, Propensity, TrainingConfig, Variant
from tasks.round.propensity import read_probabilities
from tasks.support.references import PropensityRef, TrainingSetRef
from tasks.support.retries import PATIENT
from tasks.support.workspace import Workspace


@task(name="subsample", task_run_name="subsample {variant}", **PATIENT)
def subsample_variant(
    workspace: Workspace,
    profile: Profile,
    variant: Variant,
    round: int,
    validation: str,
    propensities: Sequence[PropensityRef],
) -> TrainingSetRef:
    """Write the variant's training set for the round: D up to that round, without games set aside or held out.

    Raises:
        ValueError: RL lacks the probability of a turn; the message names turns and remedies.
    """
    store = workspace.open()
    return forgetting.settled(store, lambda: _subsample(store, profile, variant, round, validation, propensities))


def _subsample(
    store: Store,
    profile: Profile,
    variant: Variant,
    round: int,
    validation: str,
    propensities: Sequence[PropensityRef],
) -> TrainingSetRef:
    config = profile.settings(variant, round)
    chosen = learning_partitions(manifests.partitions(store, "turns"), variant, round)
    held_out = pa.array([*curated.held_out(store, validation), *set_aside.games(store)], pa.string())
    people = reviews.people_labels(store, chosen) if profile.feedback is not FeedbackSource.EXPLICIT else {}
    d0, right = _d0(store)
    left_out = Counter[str]()
    batches = eligibility.training_batches(
        _without(_batches(store, "turns", chosen), held_out),
        _without(_batches(store, "feedback", chosen), held_out),
        d0,
        variant,
        scenario(profile.scenario),
        source=profile.feedback,
        people=people,
        shuffle_seed=min(profile.seeds),
        deselection_ratio=profile.deselection_ratio,
        d0_right=right,
        limits=profile.limits,
        excluded=quarantine.users(store) if profile.limits.quarantine else (),
        left_out=left_out,
        scratch=store.scratch,
    )
    p = read_probabilities(store, propensities) if config.objective is Objective.RL else {}
    inputs = [manifests.table_input(store, name, *part) for part in chosen for name in ("turns", "feedback")]
    inputs += reviews.review_inputs(store, chosen) if people else []
    partition, known = Partition(round, variant), {} if variant.shuffled else people
    return _write(store, batches, partition, profile, config, p, profile.propensity, inputs, left_out, known)


@task(name="subsample", task_run_name="training set of the seed policy", **PATIENT)
def seed_training_set(workspace: Workspace, profile: Profile) -> TrainingSetRef:
    """Write the seed policy's training set: D0 and its deselection augmentation (appendix B.2)."""
    store = workspace.open()
    d0, right = _d0(store)
    batches = eligibility.training_batches(
        [], [], d0, None, scenario(profile.scenario), deselection_ratio=profile.deselection_ratio, d0_right=right
    )
    return _write(store, batches, Partition(0, SEED), profile, profile.seed_training, {}, None, [])


def _batches(store: Store, name: str, chosen: Sequence[Partition]) -> Iterator[pa.RecordBatch]:
    for part in chosen:
        yield from tables.iter_batches(store, name, [part.round], [part.variant])


def _without(batches: Iterable[pa.RecordBatch], interaction_ids: pa.Array) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch.filter(pc.invert(pc.is_in(batch.column("interaction_id"), interaction_ids)))


def _d0(store: Store) -> tuple[pa.Table, frozenset[tuple[str, int]]]:
    """D0 as turns, and which of them to learn from."""
    logs = curated.read(store, curated.D0)
    rows = [row for log in logs for row in turn_rows(log)]
    return pa.Table.from_pylist(rows, schema=TURNS_SCHEMA), frozenset(right_turns(logs))


def _write(
    store: Store,
    batches: Iterable[pa.RecordBatch],
    partition: Partition,
    profile: Profile,
    config: TrainingConfig,
    probability: Mapping[TurnKey, float],
    filled_from: Propensity | None,
    inputs: Sequence[manifests.Input],
    left_out: Mapping[str, int] = {},
    people: Mapping[TurnKey, int] = {},
) -> TrainingSetRef:
    """Write the rows, with p from `probability` if they have none.

    Args:
        left_out: labelled turns that users' limits made context, once all batches are read.
        people: labels of reviewed turns, to count those that are learned from.
        filled_from: where `probability` is from; None for the seed policy, whose sources of p are not needed.
    """
    tally, lacking, by_people, free_text = Tally(), 0, 0, scenario(profile.scenario).free_text
    with parts.new_part(store, "training_sets", partition) as writer:
        for batch in batches:
            lacking += eligibility.propensity(batch).null_count
            complete = eligibility.fill_propensity(batch, probability, free_text=free_text) if probability else batch
            tally.add(complete)
            by_people += pc.sum(pc.equal(batch.column("label"), eligibility.labels_of(batch, people))).as_py() or 0
            writer.add_batch(_of(partition, complete))
        if config.objective is Objective.RL:
            tally.require_probability()
        learned: dict[str, Any] = {"feedback": profile.feedback} if inputs else {}  # the seed policy's set has none
        left_out = {name: count for name, count in sorted(left_out.items()) if count}
        learned |= {"left_out": left_out} if left_out else {}
        sources, counts = _sources(tally, lacking, filled_from), tally.counts(config) | {"by_people": by_people}
        part = parts.put_part(store, writer, inputs, counts, {"probabilities": sources, **learned})
    manifest = tables.commit(store, "training_sets", partition, [part])
    warnings = eligibility.warnings(counts, config)
    if profile.feedback is FeedbackSource.EXPLICIT and inputs and not counts["positives"] + counts["negatives"]:
        warnings.append("no turn to learn from has a thumb: D0 alone is left; take --feedback decoded or both")
    if left_out:
        told = ", ".join(f"{count:,} {name}" for name, count in left_out.items())
        warnings.append(f"labelled turns that became context by the limits of users: {told}")
    for warning in warnings:
        get_run_logger().warning("%s, round %d: %s", partition.variant, partition.round, warning)
    return TrainingSetRef(
        variant=partition.variant,
        round=partition.round,
        data_hash=data_hash(manifest),
        probabilities=sources,
        left_out=left_out,
        warnings=warnings,
        **counts,
    )


def _sources(tally: Tally, lacking: int, filled_from: Propensity | None) -> dict[str, int]:
    """Count turns by the source of their p; `lacking` turns had none logged."""
    if filled_from is None:
        return {}
    filled = {} if filled_from is Propensity.LOGGED else {str(filled_from): lacking - tally.without_p}
    return {"logged": tally.rows - lacking, **filled, "none": tally.without_p}


def _of(partition: Partition, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Set the rows' round and variant to the training set's; a turn's own are found by its interaction_id."""
    for name, value in partition._asdict().items():
        place, field = batch.schema.get_field_index(name), batch.schema.field(name)
        batch = batch.set_column(place, field, pa.repeat(value, batch.num_rows).cast(field.type))
    return batch
